from __future__ import annotations

import hashlib
import struct
import time
from typing import TYPE_CHECKING
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from memdump.errors import MemdumpError
from memdump.machine import pieces
from memdump.machine.acquire import Plan, Taken, acquire, image_size
from memdump.machine.kcore import KcoreSource
from memdump.machine.source import Range, Source
from memdump.machine.stage import Stage
from tests.machine.fake_kcore import PAGE, make
from tests.machine.test_pageflags import BUDDY, LRU, SLAB, packed
from tests.machine.test_pipeline import Collected, Faulty

if TYPE_CHECKING:
    from pathlib import Path


def taken(
    source: Source,
    stream: Collected,
    stop_after: int = 1 << 60,
    plan: Plan = Plan(),  # noqa: B008
    full_after: int = 1 << 60,
) -> Taken:
    """Acquire, and ask to stop after so many blocks, or say that there is little room."""
    done: list[int] = []

    def progress(size: int) -> None:
        if stream.data:  # the sweep is over
            done.append(size)

    def stop() -> str | None:
        return "enough" if len(done) >= stop_after else None

    def trouble() -> str | None:
        return "little room" if len(done) >= full_after else None

    found = acquire(source, stream, plan, progress, stop, trouble)
    assert done == sorted(done)
    assert found.sha256 == hashlib.sha256(stream.data).hexdigest()
    assert found.size == len(stream.data)
    return found


def lime(image: bytes) -> dict[int, bytes]:
    """Read a LiME image by the words of LiME's own documentation."""
    found = {}
    while image:
        magic, version, first, last, reserved = struct.unpack("<IIQQ8s", image[:32])
        assert (magic, version, reserved) == (0x4C694D45, 1, bytes(8))
        found[first], image = image[32 : 33 + last - first], image[33 + last - first :]
    return found


def joined(image: bytes) -> dict[int, bytes]:
    """The same with neighbouring pieces as one."""
    found: dict[int, bytes] = {}
    last = None
    for start, data in lime(image).items():
        if last is not None and last + len(found[last]) == start:
            found[last] += data
        else:
            found[start], last = data, start
    return found


def test_an_image_holds_all_memory_and_what_was_taken_says_so(tmp_path: Path) -> None:
    machine = make(tmp_path)
    source = KcoreSource(str(machine.kcore), str(machine.iomem))
    stream = Collected()
    found = taken(source, stream)
    source.close()
    assert lime(bytes(stream.data)) == machine.memory
    assert found.complete
    assert found.stopped_by is None
    assert found.size == image_size(found.ranges)
    assert (list(found.unreadable), list(found.skipped), list(found.not_taken)) == ([], [], [])
    assert found.started.boot_time_ns < found.ended.boot_time_ns


@given(st.sets(st.integers(0, 29)))
def test_pages_that_cannot_be_read_are_zeros_and_the_rest_is_there(bad: set[int]) -> None:
    ranges = [Range(2 * PAGE, 8 * PAGE), Range(20 * PAGE, 10 * PAGE)]
    source = Faulty(ranges, {page for page in bad if 2 <= page < 10 or page >= 20})
    stream = Collected()
    found = taken(source, stream)
    assert lime(bytes(stream.data)) == {at.start: source.truth(at) for at in ranges}
    assert sum(at.size for at in found.unreadable) == len(source.bad) * PAGE
    assert found.complete


@given(st.integers(0, 12))
def test_a_stop_leaves_a_valid_image_of_whole_pieces_and_says_what_is_missing(stop_after: int) -> None:
    source = Faulty([Range(0, 7 * PAGE), Range(10 * PAGE, 3 * PAGE)], set())
    stream = Collected()
    with mock.patch.multiple(pieces, BLOCK=PAGE, _SMALLEST_PIECE=2 * PAGE):
        found = taken(source, stream, stop_after)
    there = {
        page for start, data in lime(bytes(stream.data)).items() for page in whole_pages(start, data, source)
    }
    missing = {page for at in found.not_taken for page in range(at.start // PAGE, at.end // PAGE)}
    assert there | missing == {*range(7), 10, 11, 12}
    assert not there & missing
    assert found.complete == (not missing) == (found.stopped_by is None)
    assert stop_after <= len(there) <= stop_after + 1 or found.complete


def whole_pages(start: int, data: bytes, source: Faulty) -> range:
    assert data == source.memory[start : start + len(data)]
    return range(start // PAGE, (start + len(data)) // PAGE)


def test_a_stream_that_fails_ends_it_with_the_reason() -> None:
    source = Faulty([Range(0, PAGE), Range(2 * PAGE, PAGE)], set())
    stream = Collected(room=32 + PAGE + 40)
    found = taken(source, stream)
    assert (found.complete, found.stopped_by) == (False, "full")


class Changing(Faulty):
    """Memory in which every page says how often it has been looked at before."""

    def __init__(self, ranges: list[Range], flags: dict[int, int], bad: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        super().__init__(ranges, set(bad))
        self.flags = flags
        self.seen: dict[int, int] = {}

    def read_into(self, address: int, buffer: memoryview) -> None:
        super().read_into(address, buffer)
        for page in range(address // PAGE, (address + len(buffer)) // PAGE):
            buffer[page * PAGE - address] = self.seen[page] = self.seen.get(page, 0) + 1

    def page_flags(self, address: int, size: int) -> bytes:
        pages = range(address // PAGE, (address + size) // PAGE)
        return packed(self.flags.get(page, LRU) for page in pages)


@given(st.sets(st.integers(0, 63)), st.integers(1, 9))
def test_the_kernels_pages_are_read_before_all_others_and_stand_in_their_place(
    kernel: set[int], block: int
) -> None:
    ranges = [Range(0, 30 * PAGE), Range(34 * PAGE, 30 * PAGE)]
    kernel -= {30, 31, 32, 33}
    source = Changing(ranges, dict.fromkeys(kernel, SLAB))
    stream = Collected()
    with mock.patch.object(pieces, "BLOCK", block * PAGE):
        found = taken(source, stream, plan=Plan(Stage(PAGE)))
    image = joined(bytes(stream.data))
    assert {start: len(data) for start, data in image.items()} == {at.start: at.size for at in ranges}
    for start, data in image.items():
        for offset in range(0, len(data), PAGE):
            page = (start + offset) // PAGE
            assert (
                data[offset + 1 : offset + PAGE] == source.memory[start + offset + 1 : start + offset + PAGE]
            )
            if page in kernel:
                assert (data[offset], source.seen[page]) == (
                    1,
                    2,
                )  # as it was at first, though it was read again
    assert found.kernel_first
    assert found.staged >= len(kernel) * PAGE


KERNEL = st.sets(st.integers(0, 29))
SPLIT = [Range(0, 14 * PAGE), Range(16 * PAGE, 14 * PAGE)]


def check_what_is_there(source: Changing, image: bytes, found: Taken, kernel: set[int]) -> set[int]:
    """See that image and manifest agree page by page; give the pages in the image."""
    there: dict[int, int] = {}
    last = 0
    for start, data in lime(image).items():
        assert start >= last  # ascending
        last = start + len(data)
        for offset in range(0, len(data), PAGE):
            page = (start + offset) // PAGE
            there[page] = data[offset]
            whole = source.memory[start + offset + 1 : start + offset + PAGE]
            blank = any(lost.start <= page * PAGE < lost.end for lost in found.unreadable)
            assert data[offset + 1 : offset + PAGE] == (bytes(PAGE - 1) if blank else whole)
    missing = {page for at in found.not_taken for page in range(at.start // PAGE, at.end // PAGE)}
    assert there.keys() | missing == {*range(14), *range(16, 30)}
    assert not there.keys() & missing
    assert all(there[page] == 1 for page in kernel & there.keys())
    return set(there)


@given(KERNEL, st.integers(0, 12), st.booleans(), st.booleans())
def test_early_copies_are_in_the_image_of_a_run_that_was_stopped(
    kernel: set[int], stop_after: int, skip_free: bool, full: bool
) -> None:
    kernel -= {14, 15}
    source = Changing(SPLIT, dict.fromkeys(kernel, SLAB))
    stream = Collected()
    plan = Plan(Stage(PAGE), skip_free)
    with mock.patch.multiple(pieces, BLOCK=3 * PAGE, _SMALLEST_PIECE=6 * PAGE):
        found = taken(source, stream, 1 << 60 if full else stop_after, plan, stop_after if full else 1 << 60)
    there = check_what_is_there(source, bytes(stream.data), found, kernel)
    if full:  # nothing that could be left out is written to it
        assert there == {page for page in range(max(there, default=-1) + 1) if page not in (14, 15)}
    elif stop_after:  # the sweep itself was not stopped
        assert kernel <= there


@given(KERNEL, st.integers(0, 40))
def test_a_source_that_is_lost_leaves_a_valid_image_with_all_early_copies(
    kernel: set[int], reads: int
) -> None:
    class Lost(Changing):
        def read_into(self, address: int, buffer: memoryview) -> None:
            if self.reads == reads:
                raise MemdumpError("the machine is gone")
            super().read_into(address, buffer)

    kernel -= {14, 15}
    source = Lost(SPLIT, dict.fromkeys(kernel, SLAB))
    stream = Collected()
    with mock.patch.multiple(pieces, BLOCK=3 * PAGE, _SMALLEST_PIECE=6 * PAGE):
        found = taken(source, stream, plan=Plan(Stage(PAGE)))
    there = check_what_is_there(source, bytes(stream.data), found, kernel)
    early = {page for page in kernel if source.seen.get(page)}
    assert early <= there
    assert found.complete == (found.stopped_by is None)
    assert found.stopped_by in (None, "the machine is gone")


def test_an_early_copy_stands_in_for_a_page_that_cannot_be_read_later() -> None:
    class Failing(Changing):
        def read_into(self, address: int, buffer: memoryview) -> None:
            super().read_into(address, buffer)
            self.bad = {5, 6}

    source = Failing([Range(0, 16 * PAGE)], {5: SLAB})
    stream = Collected()
    with mock.patch("memdump.machine.pageflags._GAP", 0):
        found = taken(source, stream, plan=Plan(Stage(PAGE)))
    assert list(found.unreadable) == [Range(6 * PAGE, PAGE)]
    (data,) = joined(bytes(stream.data)).values()
    assert data[5 * PAGE] == 1
    assert data[6 * PAGE : 7 * PAGE] == bytes(PAGE)


def test_free_pages_are_left_out_and_told() -> None:
    free = dict.fromkeys([*range(4, 24), *range(30, 33)], BUDDY)
    source = Changing([Range(0, 40 * PAGE)], free)
    stream = Collected()
    found = taken(source, stream, plan=Plan(skip_free=True))
    assert list(found.skipped) == [Range(4 * PAGE, 20 * PAGE)]  # three are not worth a header
    assert found.complete
    assert {start: len(data) for start, data in joined(bytes(stream.data)).items()} == {
        0: 4 * PAGE,
        24 * PAGE: 16 * PAGE,
    }
    assert not set(range(4, 24)) & set(source.seen)


def test_kernel_pages_that_were_freed_after_the_sweep_are_in_the_image() -> None:
    class Freeing(Changing):
        def read_into(self, address: int, buffer: memoryview) -> None:
            super().read_into(address, buffer)
            self.flags = dict.fromkeys(range(40), BUDDY)

    source = Freeing([Range(0, 40 * PAGE)], {**dict.fromkeys(range(40), LRU), 20: SLAB, 21: SLAB})
    stream = Collected()
    found = taken(source, stream, plan=Plan(Stage(PAGE), skip_free=True))
    assert lime(bytes(stream.data)) == {
        20 * PAGE: bytes([1])
        + source.memory[20 * PAGE + 1 : 21 * PAGE]
        + bytes([1])
        + source.memory[21 * PAGE + 1 : 22 * PAGE]
    }
    assert list(found.skipped) == [Range(0, 20 * PAGE), Range(22 * PAGE, 18 * PAGE)]
    assert found.staged == 2 * PAGE


def test_where_nothing_is_said_of_pages_the_order_is_ascending() -> None:
    class Silent(Changing):
        def page_flags(self, address: int, size: int) -> bytes:
            raise PermissionError("no flags")

    found = taken(Silent([Range(0, 4 * PAGE)], {}), Collected(), plan=Plan(Stage(PAGE), skip_free=True))
    assert not found.kernel_first
    assert found.complete


def test_the_sweep_counts_for_the_rate_and_for_the_progress() -> None:
    source = Changing([Range(0, 64 * PAGE)], dict.fromkeys(range(48), SLAB))
    told: list[int] = []
    rate = 64 * PAGE * 4
    with mock.patch.object(pieces, "BLOCK", 4 * PAGE):
        found = acquire(source, Collected(), Plan(Stage(PAGE), max_rate=rate), told.append, lambda: None)
    assert (told[0], told[-1]) == (48 * PAGE, 48 * PAGE + found.size)
    assert found.total_seconds >= (48 * PAGE + found.size) / rate


def test_a_run_that_waits_for_its_rate_can_be_stopped() -> None:
    source = Changing([Range(0, 64 * PAGE)], dict.fromkeys(range(48), SLAB))
    start = time.monotonic()
    asked = []

    def stop() -> str | None:
        asked.append(time.monotonic() - start)
        return "enough" if asked[-1] > 0.2 else None

    with mock.patch.object(Stage, "rest", lambda *_: iter(())):
        found = acquire(source, Collected(), Plan(Stage(PAGE), max_rate=PAGE), lambda _: None, stop)
    assert found.stopped_by == "enough"
    assert found.total_seconds < 10
