from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memdump.kernel.printk import (
    FINALIZED,
    LOST_TEXT,
    NO_TEXT,
    NUMBER_MASK,
    STATE_SHIFT,
    Descriptor,
    Info,
    Record,
    Ring,
)

RESERVED, REUSABLE = 0, 3
COUNT, SIZE = 8, 256
FIRST = NUMBER_MASK - 2  # as in the kernel, the numbers soon start over


def ring(tail: int, head: int, descriptors: list[Descriptor], infos: list[Info], text: bytes) -> Ring:
    return Ring(tail, head, COUNT, descriptors.__getitem__, infos.__getitem__, text)


class Writer:
    """Writes records as ``prb_reserve`` and ``prb_final_commit`` do, with the oldest overwritten.

    Older kernels ``wrap`` also a block that would just fit at the end.
    """

    def __init__(self, wrap: bool = False) -> None:
        self.wrap = wrap
        self.descriptors = [Descriptor(0, 0, 0)] * COUNT
        self.infos = [Info(0, 0, 0, 0, 0, 0)] * COUNT
        self.text = bytearray(SIZE)
        self.position = 3 * SIZE - 40
        self.written = 0

    def write(self, text: bytes, state: int = FINALIZED) -> None:
        number = FIRST + self.written & NUMBER_MASK
        begin, end, start = self._room(8 + (len(text) + 7 & ~7))
        self.text[start : start + 8 + len(text)] = number.to_bytes(8, "little") + text
        self._describe(number, state, begin, end, len(text))

    def write_nothing(self, position: int) -> None:
        self._describe(FIRST + self.written & NUMBER_MASK, FINALIZED, position, position, 0)

    def _room(self, size: int) -> tuple[int, int, int]:
        begin = start = self.position
        end = begin + size
        if begin // SIZE != (end if self.wrap else end - 1) // SIZE:
            start = end // SIZE * SIZE
            end = start + size
        self.position = end
        return begin, end, start % SIZE

    def _describe(self, number: int, state: int, begin: int, end: int, length: int) -> None:
        self.descriptors[number % COUNT] = Descriptor(state << STATE_SHIFT | number, begin, end)
        self.infos[number % COUNT] = Info(self.written, self.written * 10, length, 0, self.written, 6 << 5)
        self.written += 1

    def ring(self) -> Ring:
        head = FIRST + self.written - 1
        tail = max(FIRST, head - COUNT + 1)
        return ring(tail & NUMBER_MASK, head & NUMBER_MASK, self.descriptors, self.infos, bytes(self.text))


def texts(read: Ring) -> list[bytes]:
    return [record.text for record in read.records() if isinstance(record, Record)]


@given(st.lists(st.binary(max_size=SIZE // COUNT - 16), min_size=1, max_size=30), st.booleans())
def test_the_newest_records_are_read_in_order(lines: list[bytes], wrap: bool) -> None:
    writer = Writer(wrap)
    for line in lines:
        writer.write(line)
    assert texts(writer.ring()) == lines[-COUNT:]


def test_a_record_has_its_time_level_and_writer() -> None:
    writer = Writer()
    writer.write(b"first")
    writer.write(b"second")
    assert list(writer.ring().records())[1] == Record(1, 10, 6, 0, 1, b"second")


def test_a_record_that_can_still_be_continued_is_read() -> None:
    writer = Writer()
    writer.write(b"and so", state=1)
    assert texts(writer.ring()) == [b"and so"]


def test_records_that_are_written_or_given_up_just_now_are_left_out() -> None:
    writer = Writer()
    writer.write(b"half", state=RESERVED)
    writer.write(b"whole")
    writer.write(b"old", state=REUSABLE)
    assert texts(writer.ring()) == [b"whole"]


def test_an_empty_line_is_a_record_and_one_without_room_is_not() -> None:
    writer = Writer()
    writer.write_nothing(NO_TEXT)
    writer.write_nothing(LOST_TEXT)
    found = list(writer.ring().records())
    assert isinstance(found[0], Record)
    assert found[0].text == b""
    assert isinstance(found[1], str)


def test_text_that_was_overwritten_is_told_as_gone() -> None:
    writer = Writer()
    writer.write(b"one")
    writer.write(b"two")
    writer.text[:] = bytes(SIZE)
    assert all(isinstance(record, str) for record in writer.ring().records())


words = st.integers(0, (1 << 64) - 1)
descriptors = st.builds(Descriptor, words, words, words)
infos = st.builds(Info, words, words, st.integers(0, 65535), st.integers(0, 255), words, st.integers(0, 255))


@given(
    words,
    words,
    st.lists(descriptors, min_size=COUNT, max_size=COUNT),
    st.lists(infos, min_size=COUNT, max_size=COUNT),
    st.binary(min_size=SIZE, max_size=SIZE),
)
def test_any_memory_is_read_to_an_end(
    tail: int, head: int, described: list[Descriptor], known: list[Info], text: bytes
) -> None:
    made = ring(tail & NUMBER_MASK, head & NUMBER_MASK, described, known, text)
    assert len(list(made.records())) <= COUNT
