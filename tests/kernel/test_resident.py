from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.image.base import MissingMemory
from memdump.kernel.resident import LARGE, PRESENT, PROTNONE, SPECIAL, Resident

PAGE, HUGE = 4096, 2 << 20
TOP = PAGE
"""Physical address of the top page table."""


class Tables:
    """Page tables that are made as pages are mapped, and the memory they are in."""

    def __init__(self, levels: int = 4) -> None:
        self.levels = levels
        self.memory: dict[int, list[int]] = {TOP: [0] * 512}

    def map(self, address: int, entry: int, level: int = 1) -> None:
        table = TOP
        for above in range(self.levels, level, -1):
            index = address >> 12 + 9 * (above - 1) & 511
            if not self.memory[table][index]:
                new = (len(self.memory) + 1) * PAGE
                self.memory[new] = [0] * 512
                self.memory[table][index] = new | PRESENT | 1 << 63
            table = self.memory[table][index] & 0xFFFFFFFFFF000
        self.memory[table][address >> 12 + 9 * (level - 1) & 511] = entry

    def read(self, address: int, size: int) -> bytes:
        if address not in self.memory:
            raise MissingMemory(address, size)
        return struct.pack("<512Q", *self.memory[address])

    def resident(self, huge_zero_page: int | None = None) -> Resident:
        kernel: Any = SimpleNamespace(image=self, location=SimpleNamespace(levels=self.levels))
        return Resident(kernel, TOP, huge_zero_page)


@given(
    st.sets(st.integers(0, (1 << 35) - 1) | st.integers(0x7FFF0, 0x80010), max_size=30),
    st.integers(0, (1 << 35) - 1),
    st.integers(1, 1 << 35),
    st.sampled_from([4, 5]),
)
def test_pages_are_counted_where_they_are_mapped(
    mapped: set[int], start: int, pages: int, levels: int
) -> None:
    tables = Tables(levels)
    for page in mapped:
        tables.map(page * PAGE, 0x5000 | PRESENT)
    end = min(start + pages, 1 << 35)
    inside = [page for page in mapped if start <= page < end]
    assert tables.resident().count(start * PAGE, end * PAGE) == len(inside) * PAGE


def test_only_what_is_in_memory_and_of_the_process_counts() -> None:
    tables = Tables()
    entries = (PRESENT, PROTNONE, PRESENT | SPECIAL, 0x1234 << 12)  # the last is in swap
    for page, entry in enumerate(entries):
        tables.map(page * PAGE, entry)
    assert tables.resident().count(0, 8 * PAGE) == 2 * PAGE


def test_huge_pages_count_as_far_as_they_are_inside() -> None:
    tables = Tables()
    tables.map(HUGE, 8 * HUGE | PRESENT | LARGE, level=2)
    tables.map(1 << 30, 1 << 30 | PRESENT | LARGE, level=3)
    resident = tables.resident()
    assert resident.count(0, 2 * HUGE) == HUGE
    assert resident.count(HUGE + PAGE, HUGE + 3 * PAGE) == 2 * PAGE
    assert resident.count(0, 1 << 32) == HUGE + (1 << 30)


def test_the_huge_page_of_zeros_that_all_share_does_not_count() -> None:
    tables = Tables()
    tables.map(0, 8 * HUGE | PRESENT | LARGE | 1 << 63, level=2)
    assert tables.resident(8 * HUGE).count(0, HUGE) == 0


def test_a_page_table_that_is_missing_is_told() -> None:
    tables = Tables()
    tables.map(0, PRESENT)
    tables.map(HUGE, PRESENT)
    del tables.memory[max(tables.memory)]
    resident = tables.resident()
    assert resident.count(0, 2 * HUGE) == PAGE
    assert isinstance(resident.error, MissingMemory)
    assert resident.count(0, HUGE) == PAGE
    assert resident.error is None


@pytest.mark.parametrize("levels", [4, 5])
def test_page_tables_that_contain_themselves_come_to_an_end(levels: int) -> None:
    tables = Tables(levels)
    tables.memory[TOP] = [TOP | PRESENT] * 512
    resident = tables.resident()
    assert resident.count(0, 1 << 47) <= 512 * PAGE
    assert isinstance(resident.error, ValueError)


@pytest.mark.parametrize(("start", "end"), [(0, 1 << 48), (PAGE, PAGE), (2 * PAGE, PAGE), (0, 1 << 64)])
def test_what_is_no_part_of_an_address_space_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="torn"):
        Tables().resident().count(start, end)
