from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from memdump.tables.bash import find_history

HEAP = 0x55D0_0000_1000


class Heap:
    """A heap that is filled from its beginning, as a shell would."""

    def __init__(self) -> None:
        self.data = bytearray(16)

    def put(self, content: bytes) -> int:
        """The address of ``content``, which lies where ``malloc`` would put it."""
        address = HEAP + len(self.data)
        self.data += content + bytes(-len(content) % 16) + bytes(16)
        return address

    def words(self, *words: int) -> int:
        return self.put(struct.pack(f"<{len(words)}Q", *words))

    def entry(self, text: bytes, seconds: int) -> int:
        line = self.put(text + b"\0")
        return self.words(line, self.put(b"#%d\0" % seconds), 0)

    def found(self) -> list[tuple[int, bytes]]:
        return [(line.seconds, line.text) for line in find_history([(HEAP, bytes(self.data))])]


def test_lines_come_in_the_order_of_the_list_not_of_memory() -> None:
    heap = Heap()
    second, first = heap.entry(b"second", 1_700_000_005), heap.entry(b"first", 1_700_000_000)
    heap.words(first, second, 0)
    assert heap.found() == [(1_700_000_000, b"first"), (1_700_000_005, b"second")]


def test_lines_are_bytes_and_may_go_over_several_lines() -> None:
    heap = Heap()
    texts = [
        b"for i in 1 2; do\necho $i\ndone",
        b"echo \xff\xfe",
        "echo 日本語".encode(),
        b"",
        b"x" * 100_000,
    ]
    heap.words(*(heap.entry(text, 1_700_000_000) for text in texts), 0)
    assert [text for _, text in heap.found()] == texts


def test_what_is_no_longer_in_the_list_is_no_history() -> None:
    heap = Heap()
    entries = [heap.entry(b"kept", 1), heap.entry(b"deleted", 2), heap.entry(b"kept too", 3)]
    heap.words(entries[0], entries[2], 0)
    heap.words(entries[1], 0)
    assert [text for _, text in heap.found()] == [b"kept", b"kept too"]


def test_entries_that_are_lost_do_not_take_the_others_with_them() -> None:
    heap = Heap()
    entries = [heap.entry(b"%d" % number, number) for number in range(5)]
    entries[2] = HEAP + 0x100_0000
    heap.words(*entries, 0)
    assert [text for _, text in heap.found()] == [b"0", b"1", b"3", b"4"]


def test_strings_that_look_like_timestamps_are_no_history() -> None:
    heap = Heap()
    stamp, word = heap.put(b"#1700000000\0"), heap.put(b"echo\0")
    heap.words(stamp)
    heap.words(word, stamp, 0)  # an argument list: echo '#1700000000'
    assert heap.found() == []


def test_a_list_without_an_end_is_none() -> None:
    heap = Heap()
    entry = heap.entry(b"cut off", 1)
    heap.data += struct.pack("<Q", entry)
    assert heap.found() == []


def test_an_entry_among_other_things_is_no_history() -> None:
    heap = Heap()
    heap.words(heap.entry(b"by accident", 1), 5, 6, 0)
    assert heap.found() == []


def test_no_line_comes_twice_from_one_entry() -> None:
    heap = Heap()
    entry = heap.entry(b"once", 1)
    heap.words(entry, entry, entry, 0)
    assert heap.found() == [(1, b"once")]


def test_a_history_over_two_mappings_is_found() -> None:
    heap = Heap()
    entries = [heap.entry(b"one", 1), heap.entry(b"two", 2)]
    list_elsewhere = struct.pack("<3Q", *entries, 0)
    found = find_history([(HEAP, bytes(heap.data)), (0x7F00_0000_0000, list_elsewhere)])
    assert [line.text for line in found] == [b"one", b"two"]


def test_a_forged_list_does_not_multiply_memory() -> None:
    """Ten thousand entries, each with the same line of a megabyte, are ten gigabytes."""
    heap = Heap()
    line, stamp = heap.put(b"x" * (1 << 20) + b"\0"), heap.put(b"#1\0")
    entries = [heap.words(line, stamp, 0) for _ in range(10_000)]
    heap.words(*entries, 0)
    assert sum(len(text) for _, text in heap.found()) <= len(heap.data) + (1 << 20)


@given(
    st.lists(
        st.tuples(st.binary(max_size=40).filter(lambda text: b"\0" not in text), st.integers(0, 1 << 63))
    ),
    st.randoms(use_true_random=False),
)
def test_whatever_was_typed_is_found(typed: list[tuple[bytes, int]], chance: object) -> None:
    heap = Heap()
    order = list(range(len(typed)))
    chance.shuffle(order)  # type: ignore[attr-defined]
    entries = {number: heap.entry(*typed[number]) for number in order}
    heap.words(*(entries[number] for number in range(len(typed))), 0)
    assert heap.found() == [(seconds, text) for text, seconds in typed]


@given(
    st.lists(
        st.tuples(st.sampled_from([b"#1\0", b"#9999999999\0", b"ls\0", b"\0"]), st.integers(0, 40)),
        max_size=40,
    )
)
def test_any_memory_comes_to_an_end(pieces: list[tuple[bytes, int]]) -> None:
    heap = Heap()
    for text, word in pieces:
        heap.put(text)
        heap.words(HEAP + word * 16, HEAP + word * 8, 0)
    find_history([(HEAP, bytes(heap.data))])
