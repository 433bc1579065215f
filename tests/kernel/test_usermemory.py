from __future__ import annotations

import itertools
import random
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.kernel.usermemory import PAGE, UserMemory

from .images import BytesImage

DIRECT_MAP = 0xFF11_0000_0000_0000
PRESENT, HUGE, NO_EXECUTE = 1, 1 << 7, 1 << 63


class Physical:
    """Physical memory with page tables in it, made page by page."""

    def __init__(self, levels: int) -> None:
        self.levels = levels
        self.memory = bytearray(PAGE)
        self.top = self.allocate()

    def allocate(self) -> int:
        self.memory += bytes(PAGE)
        return len(self.memory) - PAGE

    def map(self, address: int, content: bytes, level: int = 1) -> None:
        """Map ``content`` at ``address`` by a table of ``level``: above the lowest, as a huge page."""
        size = PAGE << 9 * (level - 1)
        self.memory += bytes(-len(self.memory) % size)
        frame = len(self.memory)
        self.memory += content.ljust(size, b"\0")
        table = self.top
        for at in range(self.levels, level, -1):
            place = table + (address >> 12 + 9 * (at - 1) & 511) * 8
            (entry,) = struct.unpack_from("<Q", self.memory, place)
            if not entry:
                entry = self.allocate() | PRESENT | 6
                struct.pack_into("<Q", self.memory, place, entry)
            table = entry & ~0xFFF
        place = table + (address >> 12 + 9 * (level - 1) & 511) * 8
        struct.pack_into("<Q", self.memory, place, frame | PRESENT | NO_EXECUTE | (HUGE if level > 1 else 0))

    def user_memory(self, budget: int = 1 << 20) -> UserMemory:
        kernel: Any = SimpleNamespace(
            image=BytesImage({0: bytes(self.memory)}),
            direct_map=DIRECT_MAP,
            location=SimpleNamespace(levels=self.levels),
        )
        return UserMemory(kernel, DIRECT_MAP + self.top, budget)


@pytest.mark.parametrize("levels", [4, 5])
def test_what_is_there_comes_in_runs_with_gaps_between(levels: int) -> None:
    physical = Physical(levels)
    for address, content in ((0x7F00_0000_2000, b"c"), (0x7F00_0000_0000, b"a"), (0x7F00_0000_1000, b"b")):
        physical.map(address, content * PAGE)
    physical.map(0x7F00_0000_5000, b"far" * 100)
    found = list(physical.user_memory().chunks(0x7F00_0000_0000, 0x7F00_0001_0000))
    assert [(address, data[:1], len(data)) for address, data in found] == [
        (0x7F00_0000_0000, b"a", 3 * PAGE),
        (0x7F00_0000_5000, b"f", PAGE),
    ]
    assert found[0][1] == b"a" * PAGE + b"b" * PAGE + b"c" * PAGE


def test_only_what_was_asked_for_comes() -> None:
    physical = Physical(4)
    for page in range(4):
        physical.map(0x1000 * page, b"%d" % page * PAGE)
    assert list(physical.user_memory().chunks(0x1800, 0x2010)) == [(0x1800, b"1" * 0x800 + b"2" * 0x10)]


def test_huge_pages_are_read_as_one() -> None:
    physical = Physical(4)
    physical.map(0x20_0000, b"huge", level=2)
    ((address, data),) = physical.user_memory().chunks(0x20_0000, 0x40_0000)
    assert (address, data[:4], len(data)) == (0x20_0000, b"huge", 2 << 20)


def test_pages_that_the_image_lacks_are_left_out() -> None:
    physical = Physical(4)
    physical.map(0x1000, b"a" * PAGE)
    physical.map(0x2000, b"b" * PAGE)
    del physical.memory[-PAGE:]
    assert list(physical.user_memory().chunks(0, 0x4000)) == [(0x1000, b"a" * PAGE)]


def test_page_tables_that_lead_to_themselves_come_to_an_end() -> None:
    physical = Physical(5)
    for index in range(512):
        struct.pack_into("<Q", physical.memory, physical.top + index * 8, physical.top | PRESENT)
    memory = physical.user_memory(budget=1000)
    assert len(list(memory.pages(0, 1 << 56))) <= 1000
    assert memory.budget < 0


def test_page_tables_that_lead_nowhere_in_many_ways_come_to_an_end() -> None:
    physical = Physical(5)
    tables = [physical.top, *(physical.allocate() for _ in range(4))]
    for table, below in itertools.pairwise(tables):
        for index in range(512):
            struct.pack_into("<Q", physical.memory, table + index * 8, below | PRESENT)
    memory = physical.user_memory(budget=1000)
    assert list(memory.pages(0, 1 << 56)) == []
    assert memory.budget < 0


def test_no_more_is_read_than_the_budget_allows() -> None:
    physical = Physical(4)
    physical.map(0x20_0000, b"huge", level=2)
    memory = physical.user_memory(budget=500)
    assert list(memory.chunks(0x20_0000, 0x40_0000)) == []
    assert memory.budget < 0


@given(st.integers(0, 1 << 32), st.integers(0, 1 << 57), st.integers(0, 1 << 57))
def test_any_page_tables_come_to_an_end_within_bounds(seed: int, start: int, end: int) -> None:
    physical = Physical(5)
    chance = random.Random(seed)
    tables = [physical.allocate() for _ in range(8)]
    for table in (physical.top, *tables):
        for index in chance.sample(range(512), 16):
            entry = chance.choice(tables) | chance.getrandbits(12) | chance.getrandbits(1) << 62
            struct.pack_into("<Q", physical.memory, table + index * 8, entry)
    for address, data in physical.user_memory(budget=2000).chunks(start, end):
        assert start <= address
        assert address + len(data) <= end
