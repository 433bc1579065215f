from __future__ import annotations

import random
import struct

from hypothesis import given
from hypothesis import strategies as st

from memdump.tables.heap import PAGE, Heap
from memdump.tables.zsh import find_history, plain

START = 0x55D0_0000_1000
ENTRY = 96


def ring(lines: list[tuple[bytes, int]], order: list[int] | None = None) -> bytearray:
    """A heap with the entries of a history, placed in ``order``."""
    places = {number: START + place * ENTRY for place, number in enumerate(order or range(len(lines)))}
    text = START + len(lines) * ENTRY
    heap = bytearray(len(lines) * ENTRY)
    for number, (line, seconds) in enumerate(lines):
        older, newer = places[(number - 1) % len(lines)], places[(number + 1) % len(lines)]
        packed = struct.pack(
            "<11Q",
            0,
            text + len(heap) - len(lines) * ENTRY,
            4,
            older,
            newer,
            0,
            seconds,
            seconds,
            0,
            0,
            number + 1,
        )
        place = places[number] - START
        heap[place : place + len(packed)] = packed
        heap += line + b"\0"
    return heap


def found(heap: bytearray) -> list[tuple[int | None, bytes]]:
    pages = bytes(heap) + bytes(-len(heap) % PAGE)
    return [(line.seconds, line.text) for line in find_history(Heap([(START, pages)]))]


def test_lines_come_by_their_numbers_not_as_they_stand_in_memory() -> None:
    lines = [(b"first", 1_700_000_000), (b"second", 1_700_000_001), (b"third\nline", 1_700_000_002)]
    assert found(ring(lines, [2, 0, 1])) == [(seconds, text) for text, seconds in lines]


def test_a_line_that_was_loaded_without_a_time_has_none() -> None:
    assert found(ring([(b"old", 0), (b"new", 5)])) == [(None, b"old"), (5, b"new")]


def test_the_line_being_typed_is_not_yet_history() -> None:
    assert found(ring([(b"done", 1), (b"also done", 2), (b"", 0)])) == [(1, b"done"), (2, b"also done")]


def test_the_others_are_found_where_an_entry_is_lost() -> None:
    heap = ring([(b"%d" % number, number + 1) for number in range(8)])
    heap[3 * ENTRY : 4 * ENTRY] = bytes(ENTRY)
    assert [text for _, text in found(heap)] == [b"0", b"1", b"2", b"4", b"5", b"6", b"7"]


def test_bytes_that_zsh_escapes_are_as_they_were_typed() -> None:
    assert plain("日本".encode().replace(b"\x97", b"\x83\xb7")) == "日本".encode()
    assert plain(b"a\x83") == b"a"


def test_other_lists_are_no_history() -> None:
    heap = ring([(b"a", 1 << 60), (b"b", 1 << 60)])
    assert found(heap) == []


@given(st.integers(0, 1 << 32))
def test_any_memory_comes_to_an_end(seed: int) -> None:
    chance = random.Random(seed)
    heap = ring([(b"x" * 50, 1)] * 20)
    for _ in range(100):
        struct.pack_into(
            "<Q", heap, chance.randrange(20 * ENTRY // 8) * 8, START + chance.randrange(len(heap))
        )
    assert len(found(heap)) <= 20 * ENTRY // 8
