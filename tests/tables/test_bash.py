from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from memdump.tables.bash import find_history
from memdump.tables.heap import PAGE, Heap

START = 0x55D0_0000_1000


class Malloc:
    """A heap that is filled from its beginning, as a shell would."""

    def __init__(self) -> None:
        self.data = bytearray(16)

    def put(self, content: bytes) -> int:
        """The address of ``content``, which lies where ``malloc`` would put it."""
        address = START + len(self.data)
        self.data += content + bytes(-len(content) % 16) + bytes(16)
        return address

    def words(self, *words: int) -> int:
        return self.put(struct.pack(f"<{len(words)}Q", *words))

    def entry(self, text: bytes, seconds: int) -> int:
        line = self.put(text + b"\0")
        return self.words(line, self.put(b"#%d\0" % seconds), 0)

    def pages(self) -> bytes:
        """All of it, up to the end of a page."""
        return bytes(self.data) + bytes(-len(self.data) % PAGE)

    def found(self) -> list[tuple[int | None, bytes]]:
        return [(line.seconds, line.text) for line in find_history(Heap([(START, self.pages())]))]


def test_lines_come_in_the_order_of_the_list_not_of_memory() -> None:
    heap = Malloc()
    second, first = heap.entry(b"second", 1_700_000_005), heap.entry(b"first", 1_700_000_000)
    heap.words(first, second, 0)
    assert heap.found() == [(1_700_000_000, b"first"), (1_700_000_005, b"second")]


def test_lines_are_bytes_and_may_go_over_several_lines() -> None:
    heap = Malloc()
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
    heap = Malloc()
    entries = [heap.entry(b"kept", 1), heap.entry(b"deleted", 2), heap.entry(b"kept too", 3)]
    heap.words(entries[0], entries[2], 0)
    heap.words(entries[1], 0)
    assert [text for _, text in heap.found()] == [b"kept", b"kept too"]


def test_entries_that_are_lost_do_not_take_the_others_with_them() -> None:
    heap = Malloc()
    entries = [heap.entry(b"%d" % number, number) for number in range(5)]
    entries[2] = START + 0x100_0000
    heap.words(*entries, 0)
    assert [text for _, text in heap.found()] == [b"0", b"1", b"3", b"4"]


def test_strings_that_look_like_timestamps_are_no_history() -> None:
    heap = Malloc()
    stamp, word = heap.put(b"#1700000000\0"), heap.put(b"echo\0")
    heap.words(stamp)
    heap.words(word, stamp, 0)  # an argument list: echo '#1700000000'
    assert heap.found() == []


def test_a_list_without_an_end_is_none() -> None:
    heap = Malloc()
    entry = heap.entry(b"cut off", 1)
    heap.data += bytes(-8 - len(heap.data) & PAGE - 1)
    heap.data += struct.pack("<Q", entry)
    assert heap.found() == []


def test_an_entry_among_other_things_is_no_history() -> None:
    heap = Malloc()
    heap.words(heap.entry(b"by accident", 1), 5, 6, 0)
    assert heap.found() == []


def test_no_line_comes_twice_from_one_entry() -> None:
    heap = Malloc()
    once, again = heap.entry(b"once", 1), heap.entry(b"again", 2)
    heap.words(once, again, once, 0)
    assert heap.found() == [(1, b"once"), (2, b"again")]


def test_a_history_over_two_mappings_is_found() -> None:
    heap = Malloc()
    entries = [heap.entry(b"one", 1), heap.entry(b"two", 2)]
    elsewhere = struct.pack("<3Q", *entries, 0).ljust(PAGE, b"\0")
    found = find_history(Heap([(START, heap.pages()), (0x7F00_0000_0000, elsewhere)]))
    assert [line.text for line in found] == [b"one", b"two"]


def test_a_forged_list_does_not_multiply_memory() -> None:
    """Ten thousand entries, each with the same line of a megabyte, are ten gigabytes."""
    heap = Malloc()
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
    heap = Malloc()
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
    heap = Malloc()
    for text, word in pieces:
        heap.put(text)
        heap.words(START + word * 16, START + word * 8, 0)
    assert len(heap.found()) <= len(pieces)
