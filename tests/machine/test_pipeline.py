from __future__ import annotations

import contextlib
import errno
import hashlib
import random
import threading
import time
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.errors import MemdumpError
from memdump.machine import pieces
from memdump.machine.pieces import read_block
from memdump.machine.pipeline import LAG, Digest, ReadAhead
from memdump.machine.source import Range, Source
from tests.machine.fake_kcore import PAGE


class Faulty(Source):
    """Memory in which some pages cannot be read; it spoils the buffer where it fails, as a kernel may."""

    name = "faulty"
    page_size = PAGE

    def __init__(self, ranges: list[Range], bad: set[int], sparse: bool = False) -> None:
        self._ranges = ranges
        self.bad = bad
        end = max(found.end for found in ranges)
        self.memory = bytearray(end) if sparse else bytearray(random.Random(1).randbytes(end))
        self.reads = 0

    def ranges(self) -> list[Range]:
        return self._ranges

    def read_into(self, address: int, buffer: memoryview) -> None:
        self.reads += 1
        if any(page * PAGE < address + len(buffer) and address < (page + 1) * PAGE for page in self.bad):
            buffer[:] = b"\xee" * len(buffer)
            raise OSError(errno.EFAULT, "bad address")
        buffer[:] = self.memory[address : address + len(buffer)]

    def close(self) -> None:
        pass

    def truth(self, found: Range) -> bytes:
        data = bytearray(self.memory[found.start : found.end])
        for page in self.bad:
            if found.start <= page * PAGE < found.end:
                offset = page * PAGE - found.start
                data[offset : offset + PAGE] = bytes(PAGE)
        return bytes(data)


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
def test_exactly_the_pages_that_fault_are_zeros_and_recorded(pages: int, bad: set[int]) -> None:
    whole = Range(0, pages * PAGE)
    source = Faulty([whole], {page for page in bad if page < pages})
    buffer = bytearray(whole.size)
    lost = read_block(source, 0, memoryview(buffer), PAGE)
    assert [(found.start // PAGE, found.size) for found in lost] == [(p, PAGE) for p in sorted(source.bad)]
    assert bytes(buffer) == source.truth(whole)


def test_a_good_block_is_read_at_once() -> None:
    source = Faulty([Range(0, 64 * PAGE)], set())
    read_block(source, 0, memoryview(bytearray(64 * PAGE)), PAGE)
    assert source.reads == 1


def test_one_bad_page_costs_few_reads() -> None:
    source = Faulty([Range(0, 1024 * PAGE)], {700}, sparse=True)
    read_block(source, 0, memoryview(bytearray(1024 * PAGE)), PAGE)
    assert source.reads == 1 + 2 * 10  # a binary search


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 30)), min_size=1, max_size=4),
    st.sets(st.integers(0, 139)),
    st.integers(1, 9),
)
def test_all_ranges_come_in_order_with_their_true_bytes(
    shape: list[tuple[int, int]], bad: set[int], block: int
) -> None:
    ranges = []
    end = 0
    for gap, pages in shape:
        ranges.append(Range((end + gap) * PAGE, pages * PAGE))
        end += gap + pages
    pages_of_ram = {page for found in ranges for page in range(found.start // PAGE, found.end // PAGE)}
    source = Faulty(ranges, bad & pages_of_ram)
    reader = ReadAhead(source, ranges, PAGE)
    seen = bytearray(end * PAGE)
    addresses = []
    with mock.patch.object(pieces, "BLOCK", block * PAGE):
        for address, data in reader.blocks():
            assert len(data) <= block * PAGE
            seen[address : address + len(data)] = data
            addresses.append(address)
    assert addresses == sorted(addresses)
    for found in ranges:
        assert seen[found.start : found.end] == source.truth(found)
    lost = [page for found in reader.unreadable for page in range(found.start // PAGE, found.end // PAGE)]
    assert lost == sorted(source.bad)
    joined = zip(reader.unreadable, reader.unreadable[1:], strict=False)
    assert all(first.end < second.start for first, second in joined)


def test_a_fault_of_the_source_itself_comes_out_and_the_thread_ends() -> None:
    class Broken(Faulty):
        def read_into(self, address: int, buffer: memoryview) -> None:
            raise MemdumpError("the machine is gone")

    reader = ReadAhead(Broken([Range(0, PAGE)], set()), [Range(0, PAGE)], PAGE)
    with pytest.raises(MemdumpError, match="gone"):
        list(reader.blocks())
    assert "reader" not in {thread.name for thread in threading.enumerate()}


def test_the_thread_ends_when_the_blocks_are_no_longer_wanted() -> None:
    ranges = [Range(0, 100 * PAGE)]
    reader = ReadAhead(Faulty(ranges, set()), ranges, PAGE)
    with mock.patch.object(pieces, "BLOCK", PAGE), contextlib.closing(reader.blocks()) as blocks:
        next(blocks)
    assert "reader" not in {thread.name for thread in threading.enumerate()}


class Collected:
    def __init__(self, room: int = 1 << 30) -> None:
        self.data = bytearray()
        self.room = room

    def write(self, data: bytes | memoryview, /) -> None:
        if len(self.data) + len(data) > self.room:
            raise MemdumpError("full")
        self.data += data


@given(st.lists(st.binary(max_size=5000)))
def test_the_digest_is_that_of_the_bytes_passed_on(parts: list[bytes]) -> None:
    stream = Collected()
    digest = Digest(stream)
    for part in parts:
        digest.write(memoryview(part))
    assert digest.close() == hashlib.sha256(b"".join(parts)).hexdigest()
    assert bytes(stream.data) == b"".join(parts)
    assert digest.size == len(stream.data)


def test_after_a_failed_write_size_and_digest_are_those_before_it() -> None:
    digest = Digest(Collected(room=10))
    digest.write(b"12345678")
    with pytest.raises(MemdumpError, match="full"):
        digest.write(b"12345678")
    assert digest.size == 8
    assert digest.close() == hashlib.sha256(b"12345678").hexdigest()


class Slow:
    """SHA-256 that takes its time, as on a busy machine."""

    def __init__(self) -> None:
        self._real = REAL()

    def update(self, data: bytes | memoryview) -> None:
        time.sleep(0.02)
        self._real.update(data)

    def copy(self) -> Slow:
        other = Slow()
        other._real = self._real.copy()
        return other

    def hexdigest(self) -> str:
        return self._real.hexdigest()


REAL = hashlib.sha256


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_bytes_are_left_alone_no_longer_than_agreed(lag: int) -> None:
    buffers = [bytearray(8) for _ in range(lag + 1)]
    written = bytearray()
    with mock.patch.object(hashlib, "sha256", Slow):
        digest = Digest(Collected(), lag)
    for number in range(9):
        buffer = buffers[number % len(buffers)]
        buffer[:] = bytes([number]) * 8
        written += buffer
        digest.write(memoryview(buffer))
    assert digest.close() == REAL(written).hexdigest()


def test_a_block_is_left_alone_for_another() -> None:
    """While the first is still being digested, the second may be asked for."""
    ranges = [Range(0, 20 * PAGE)]
    source = Faulty(ranges, set())
    earlier: list[tuple[int, memoryview]] = []
    with mock.patch.object(pieces, "BLOCK", PAGE):
        for address, data in ReadAhead(source, ranges, PAGE).blocks():
            time.sleep(0.005)  # the reader fills whatever it is allowed to
            earlier.append((address, data))
            for address_before, before in earlier[-1 - LAG :]:
                assert before == source.truth(Range(address_before, PAGE))
    assert len(earlier) == 20
