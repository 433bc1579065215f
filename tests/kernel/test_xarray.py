from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from memdump.kernel import xarray
from memdump.kernel.problems import Problems
from tests.kernel.structures import BASE, program, xa_node

NODE = 576


def walk(memory: bytes, head: int) -> tuple[list[tuple[int, int]], Problems]:
    problems = Problems()
    return list(xarray.entries(program(memory), head, problems, "table")), problems


def test_an_empty_array_has_no_entries() -> None:
    found, problems = walk(b"", 0)
    assert (found, len(problems)) == ([], 0)


def test_a_single_entry_stands_in_the_head() -> None:
    found, _ = walk(b"", BASE)
    assert found == [(0, BASE)]


def test_entries_come_in_order_with_their_index() -> None:
    low, high = BASE + NODE | 2, BASE + 2 * NODE | 2
    memory = xa_node(6, {0: low, 3: high}) + xa_node(0, {1: 0x1000, 63: 0x2000}) + xa_node(0, {2: 0x3000})
    found, problems = walk(memory, BASE | 2)
    assert found == [(1, 0x1000), (63, 0x2000), (3 * 64 + 2, 0x3000)]
    assert not len(problems)


def test_siblings_and_reserved_entries_are_no_entries() -> None:
    sibling, zero, retry = 4 << 2 | 2, 257 << 2 | 2, 256 << 2 | 2
    found, _ = walk(xa_node(0, {1: 0x1000, 2: sibling, 3: zero, 4: retry}), BASE | 2)
    assert found == [(1, 0x1000)]


def test_a_node_that_is_missing_is_noted_and_the_rest_is_read() -> None:
    gone, there = BASE + 0x100000 | 2, BASE + NODE | 2
    found, problems = walk(xa_node(6, {0: gone, 1: there}) + xa_node(0, {0: 0x1000}), BASE | 2)
    assert found == [(64, 0x1000)]
    assert [problem.place for problem in problems] == [f"xa_node {BASE + 0x100000:#x}"]


def test_a_node_that_contains_itself_is_noted_and_left() -> None:
    found, problems = walk(xa_node(6, {0: BASE | 2, 1: 0x1000}), BASE | 2)
    assert (found, len(problems)) == ([(64, 0x1000)], 1)


@given(st.binary(min_size=NODE, max_size=NODE), st.lists(st.integers(0, 63)), st.integers(0, 255))
def test_any_memory_is_walked_to_an_end(memory: bytes, nodes: list[int], shift: int) -> None:
    torn = bytearray(memory * 2)
    for slot in nodes:
        struct.pack_into("<Q", torn, 40 + slot * 8, BASE + NODE | 2)
        struct.pack_into("<Q", torn, NODE + 40 + slot * 8, BASE | 2)
    torn[0], torn[NODE] = shift, shift ^ 1
    found, _ = walk(bytes(torn), BASE | 2)
    assert len(found) < 64 * 64 * 64
