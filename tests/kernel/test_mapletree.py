from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from memdump.kernel.mapletree import LARGEST, MapleTrees
from memdump.kernel.problems import Problems
from tests.kernel.structures import BASE, branch, leaf, program

NODE = 256
ROOT, LEAF, RANGE, GAPS = 2, 1 << 3 | 4, 2 << 3 | 4, 3 << 3 | 4
"""The low bits of a pointer to a node: which of them it is, and that it is the root."""


def walk(memory: bytes, root: int) -> tuple[list[int], Problems]:
    problems = Problems()
    return list(MapleTrees(program(memory), problems).entries(root, "table")), problems


def test_an_empty_tree_has_no_entries() -> None:
    assert walk(b"", 0)[0] == []


def test_a_tree_of_one_entry_has_no_nodes() -> None:
    assert walk(b"", BASE)[0] == [BASE]


def test_a_leaf_is_read_up_to_its_last_slot() -> None:
    found, problems = walk(leaf([99, 199, 299], [0x1000, 0, 0x2000, 0x3000]), BASE | LEAF | ROOT)
    assert (found, len(problems)) == ([0x1000, 0x2000, 0x3000], 0)


def test_a_full_leaf_has_an_entry_where_its_metadata_would_be() -> None:
    slots = [0x1000 * number for number in range(1, 17)]
    assert walk(leaf(range(1, 16), slots), BASE | LEAF | ROOT)[0] == slots


def test_what_is_left_of_a_longer_node_is_no_entry() -> None:
    memory = bytearray(leaf([99, LARGEST], [0x1000, 0x2000, 0xBAD000]))
    struct.pack_into("<Q", memory, 8 + 2 * 8, 5)  # a pivot behind the end
    struct.pack_into("<Q", memory, 248, 1)
    assert walk(bytes(memory), BASE | LEAF | ROOT)[0] == [0x1000, 0x2000]


def test_branches_lead_to_leaves_in_order() -> None:
    memory = (
        branch([999], [BASE + NODE | LEAF, BASE + 2 * NODE | LEAF])
        + leaf([9], [0x1000, 0x2000])
        + leaf([1500], [0x3000, 0x4000])
    )
    found, problems = walk(memory, BASE | GAPS | ROOT)
    assert (found, list(problems)) == ([0x1000, 0x2000, 0x3000, 0x4000], [])


def test_a_node_that_is_missing_is_noted_and_the_rest_is_read() -> None:
    memory = branch([999], [BASE + 0x10000 | LEAF, BASE + NODE | LEAF]) + leaf([1500], [0x3000, 0])
    found, problems = walk(memory, BASE | GAPS | ROOT)
    assert found == [0x3000]
    assert [problem.place for problem in problems] == [f"maple_node {BASE + 0x10000:#x}"]


def test_a_tree_that_contains_itself_ends() -> None:
    found, problems = walk(branch([999], [BASE | GAPS, BASE | RANGE]), BASE | GAPS | ROOT)
    assert (found, len(problems)) == ([], 1)


@given(
    st.binary(min_size=NODE, max_size=NODE),
    st.lists(st.tuples(st.integers(0, 31), st.integers(0, 3), st.integers(0, 15)), max_size=60),
)
def test_any_memory_is_walked_to_an_end(memory: bytes, pointers: list[tuple[int, int, int]]) -> None:
    torn = bytearray(memory * 4)
    for word, node, kind in pointers:
        for start in range(0, 4 * NODE, NODE):
            struct.pack_into("<Q", torn, start + word * 8, BASE + node * NODE | kind << 3 | 4)
    for kind in (LEAF, RANGE, GAPS):
        assert len(walk(bytes(torn), BASE | kind | ROOT)[0]) <= 4 * 16
