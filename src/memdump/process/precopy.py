"""Copying a process while it runs, so that only what it has written to meanwhile is read while it stands.

So virtual machines are moved.  The kernel notes which pages are written to (`watching`).  All memory is
copied to the file, then what was written to meanwhile, and again; at last, while the process stands, the
little that is left (`capture.Changes`), or, if that is much, it is taken from a copy of the process.

Memory keeps the place in the file that it got first, and what comes later is put behind: the order in the
file is not that of the addresses, which program headers need not follow.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import time
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import MemdumpError
from memdump.machine import host, pieces
from memdump.machine.buffers import page_aligned
from memdump.machine.source import Range
from memdump.process import architecture, corefile, maps, notes, pagemap, proc, sparse, take, watching
from memdump.process.corefile import Segment
from memdump.process.lanes import Lanes
from memdump.process.memory import CapturedMemory, Memory, Part
from memdump.process.places import Places
from memdump.process.take import Core, Sources, Taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from collections.abc import Mapping as Dictionary

    from memdump.machine.output import Output
    from memdump.process.capture import Captured
    from memdump.process.guardian import Guardian
    from memdump.process.maps import Details, Mapping
    from memdump.process.notes import Owner
    from memdump.process.selection import Choice, Chosen

_PAYS = 256 << 20
"""Bytes in small pages: to copy the page tables of less takes no longer than to stop a process twice."""
_VAST = 1 << 30
_PASSES, _ENOUGH, _LESS = 6, 1 << 20, 0.7
"""How often what was written to is copied again at most; with so few bytes, or hardly less than the time
before, the process is stopped."""
_BEHIND_ALL = 1 << 64
_ROOM, _EACH = 1 << 20, 8 << 10
"""Bytes in front of the memory, and of these for each thread and mapping: more than what goes there."""


def reason_against(pid: int) -> str | None:
    """Say why a process cannot be copied while it runs; None where nothing is against it."""
    if not watching.is_supported():
        return "this kernel cannot watch what it writes (from Linux 6.7 on it can)"
    if proc.status(pid).number("VmPin"):
        return "devices, too, may write to its memory (VmPin)"
    return None


def pays(details: Iterable[Details]) -> bool:
    """Whether a process is so large that it would stand for longer while a copy of it is made."""
    return sum(found.anonymous - found.huge for found in details) >= _PAYS


class _Watched(Memory):
    """The memory of a process that is watched: it is protected before it is read, so no write is missed."""

    def __init__(self, pid: int) -> None:
        """Open it; raises ``OSError``."""
        super().__init__(pid)
        self.used: list[tuple[int, int]] = []
        """Runs of pages, start and end, that were the process's own when they were protected."""

    def read_private(self, address: int, buffer: memoryview) -> None:
        """Fill a buffer from memory whose pages are zeros where there are none."""
        at, end = address, address + len(buffer)
        for start, stop in self._protect(at, end, pagemap.PROTECTED):
            buffer[at - address : start - address] = bytes(start - at)
            super().read_into(start, buffer[start - address : stop - address])
            at = stop
        buffer[at - address :] = bytes(end - at)

    def read_into(self, address: int, buffer: memoryview) -> None:
        """Fill a buffer from other memory, of which reading brings in the pages that are not there yet."""
        super().read_into(address, buffer)
        self._protect(address, address + len(buffer), pagemap.PROTECTED)
        super().read_into(address, buffer)

    def read_again(self, start: int, end: int) -> Iterator[tuple[int, memoryview]]:
        """Read what was written to since it was protected: addresses and content."""
        for first, last in self._protect(start, end, pagemap.AGAIN):
            for address in range(first, last, pieces.BLOCK):
                yield from self._read_there(address, memoryview(bytearray(min(pieces.BLOCK, last - address))))

    def _read_there(self, address: int, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Read what is still there; what is gone is no matter, that will be seen when the process stands."""
        try:
            super().read_into(address, data)
            yield address, data
        except OSError:
            half = len(data) // 2 // host.PAGE_SIZE * host.PAGE_SIZE
            if half:
                yield from self._read_there(address, data[:half])
                yield from self._read_there(address + half, data[half:])

    def _protect(self, start: int, end: int, wanted: pagemap.Wanted) -> list[tuple[int, int]]:
        """Protect pages that are there; gives their runs."""
        found = self.scan(start, end, wanted)
        self.used += [(run.start, run.end) for run in found if not run.kinds & pagemap.FILE]
        return list(pagemap.joined(pagemap.spans(found), near=0))


class Precopy:
    """The core of a process that is watched, begun before it is stopped."""

    def __init__(
        self, pid: int, output: Output, details: Dictionary[tuple[int, int], Details], choice: Choice
    ) -> None:
        """Lay out what is there now; raises ``OSError``."""
        self._pid = pid
        self._output = output
        self._choice = choice
        self._details = dict(details)
        self._started, self._clock = host.now(), time.monotonic()
        self._lanes: list[Lanes] = []
        living = proc.living(pid)
        mappings = maps.parse(proc.read(living, "maps"))
        self._room = corefile.in_pages(_ROOM + _EACH * (len(mappings) + len(proc.threads(pid))))
        self._places = Places(self._room)
        self._memory = _Watched(living)
        self._parts: list[Part] = []
        for one in take.choose(mappings, self._details, choice, living):
            if one.size and not one.mapping.shared:
                part = Part(one.mapping.start, one.size, self._memory, one.mapping.empty_is_zero)
                for start, _, in_file in take.spans(one, part, living):
                    self._parts += [part._replace(start=start, size=in_file)] * bool(in_file)
        for part in self._parts:
            self._places.give(part.start, part.end)

    @property
    def size(self) -> int:
        """Bytes that are copied at first."""
        return self._places.end - self._room

    def had(self) -> list[tuple[int, int]]:
        """Give the runs of pages, start and end, in mappings of files that were the process's own."""
        used = list(pagemap.joined(sorted(self._memory.used), near=0))
        files = (part for part in self._parts if not part.private)
        return [span for part in files for span in _inside(used, part.start, part.end)]

    def _copied(self) -> list[tuple[int, int]]:
        """Give the runs of addresses, start and end, of which something may be in the file."""
        files = ((part.start, part.end) for part in self._parts if not part.private)
        return list(pagemap.joined(sorted([*self._memory.used, *files]), near=0))

    def close(self) -> None:
        """Let go of the process."""
        self._memory.close()

    # While the process runs.

    def copy(self, progress: Callable[[int], None], stop: Callable[[], str | None]) -> None:
        """Copy it, and what it writes to meanwhile; raises `MemdumpError` where that ends early."""
        self._output.skip(self._room)
        self._output.write_directly()
        reason = self._copy_parts(self._parts, progress, stop)
        before = 0
        for _ in range(_PASSES):
            reason = reason or stop()
            if reason:
                raise MemdumpError(reason)
            size = self._copy_again()
            if size <= _ENOUGH or (before and size > before * _LESS):
                break
            before = size
        fresh = maps.parse_details(proc.read_or_nothing(proc.living(self._pid), "smaps"))
        for key, found in fresh.items():
            self._details.setdefault(key, found._replace(flags=found.flags - {"uw"}))

    def _copy_parts(
        self, parts: list[Part], progress: Callable[[int], None], stop: Callable[[], str | None]
    ) -> str | None:
        source = CapturedMemory(parts)
        self._lanes.append(Lanes(source, source.ranges(), self._output))
        return self._lanes[-1].copy(progress, stop)

    def _copy_again(self) -> int:
        """Copy what was written to since it was copied last; gives bytes."""
        size = 0
        for start, end in pagemap.joined(self._places.spans(), near=0):
            for address, data in self._memory.read_again(start, end):
                self._put(address, data)
                size += len(data)
        return size

    def _put(self, address: int, data: memoryview) -> None:
        """Write memory to its place, where other bytes may stand."""
        for place in self._places.of(address, address + len(data)):
            first = place.start - address
            for start, end, zeros in sparse.runs(data[first : first + place.size]):
                if zeros:
                    self._output.erase(place.at + start, end - start)
                else:
                    self._output.write_at(data[first + start : first + end], place.at + start)

    def _erase(self, start: int, end: int) -> None:
        for place in self._places.of(start, end):
            self._output.erase(place.at, place.size)

    # Once it was stopped.

    def finish(
        self,
        captured: Captured,
        guardian: Guardian,
        owner: Owner,
        progress: Callable[[int], None],
        stop: Callable[[], str | None],
    ) -> tuple[Core, Taken]:
        """Bring the file to the instant of the stop; ``stop`` may give a reason to end early."""
        mappings = maps.parse(captured.maps)
        chosen = take.choose(mappings, self._details, self._choice, take.holder_of(captured))
        with contextlib.ExitStack() as stack:
            sources = Sources(captured, guardian, stack)
            found = [_Found(one, *sources.part(one)) for one in chosen if one.size]
            now = _Now(captured, found, self._copied())
            shared = self._give_places(found, now)
            reason = None
            try:
                reason = self._copy_parts(shared, progress, stop) or self._change(found, now, guardian, stop)
            except MemdumpError as error:
                reason = str(error)
        return self._end(captured, owner, mappings, chosen, found, now, reason)

    def _give_places(self, found: Sequence[_Found], now: _Now) -> list[Part]:
        """Give places to what has come meanwhile; gives what of that is copied as a whole."""
        shared: list[Part] = []
        private: list[tuple[int, int]] = []
        for one in found:
            part = one.part
            if one.shared:
                spans = take.spans(one.chosen, part, self._pid)
                shared += [part._replace(start=start, size=size) for start, _, size in spans if size]
                continue
            for start, end in self._places.without(part.start, part.end):
                if one.empty_is_zero and end - start >= _VAST:
                    private += pagemap.joined(_inside(now.written, start, end))
                    continue
                private.append((start, end))
                if not one.empty_is_zero:
                    unknown = pieces.without([Range(start, end - start)], now.known)
                    now.to_read += [_part(part, one.start, one.end) for one in unknown]
        for start, end in [*((part.start, part.end) for part in shared), *private]:
            self._places.give(start, end)
        return shared

    def _change(
        self, found: Sequence[_Found], now: _Now, guardian: Guardian, stop: Callable[[], str | None]
    ) -> str | None:
        """Write what is another content now; gives the reason where that comes to an early end."""
        there = [_range(one.part) for one in found]
        had = [Range(start, end - start) for start, end in pagemap.joined(self._places.spans(), near=0)]
        for gone in pieces.without(had, there):
            self._erase(gone.start, gone.end)
        for start, end in now.emptied:
            self._erase(start, end)
        for early in now.read:
            self._put(early.start, guardian.early(early.at, early.size))
        buffer = page_aligned(pieces.BLOCK)
        now.left = [(part, block) for part in now.to_read for block in pieces.blocks([_range(part)])]
        while now.left:
            reason = stop()
            if reason:
                return reason
            part, block = now.left[0]
            data = buffer[: block.size]
            now.lost += pieces.read_block(CapturedMemory([part]), block.start, data, host.PAGE_SIZE)
            self._put(block.start, data)
            now.left.pop(0)
        return None

    def _end(
        self,
        captured: Captured,
        owner: Owner,
        mappings: list[Mapping],
        chosen: Sequence[Chosen],
        found: Sequence[_Found],
        now: _Now,
        reason: str | None,
    ) -> tuple[Core, Taken]:
        """Write the headers and notes, and tell what is in the file."""
        segments, places = [], []
        for one in chosen:
            for segment, at in self._segments(one):
                segments.append(segment)
                places.append(at)
        known = architecture.this()
        noted = notes.notes(captured, owner, mappings)
        front = corefile.around(known.elf_machine, noted, segments, places, self._room, self._places.end)
        try:
            for at, data in front:
                self._output.write_at(data, at)
            self._output.end_at(max(self._places.end, *(at + len(data) for at, data in front)))
        except MemdumpError as error:
            reason = reason or str(error)
        nothing = memoryview(b"")
        parts = [Part(one.start, one.in_file, nothing, False) for one in segments if one.in_file]
        ranges = [_range(part) for part in parts]
        before, *later = (lanes.unreadable for lanes in self._lanes)
        lost = sorted([*pieces.without(before, now.known), *now.lost, *itertools.chain(*later)])
        missing = self._lanes[-1].missing
        core = Core(
            front=b"".join(data for _, data in front),
            parts=parts,
            live=[_range(one.part) for one in found if one.is_live],
            skipped=take.skipped_of(chosen),
            read_early=[_range(one.part) for one in found if one.is_early]
            + [Range(early.start, early.size) for early in now.read],
        )
        taken = Taken(
            started=self._started,
            ended=host.now(),
            size=self._output.position,
            sha256=None,
            unreadable=pieces.within(lost, ranges),
            not_taken=([missing] if missing else []) + [block for _, block in now.left],
            stopped_by=reason,
            total_seconds=time.monotonic() - self._clock,
            reading_seconds=sum(lanes.reading_seconds for lanes in self._lanes),
            hashing_seconds=0.0,
            writing_seconds=sum(lanes.writing_seconds for lanes in self._lanes),
        )
        return core, taken

    def _segments(self, one: Chosen) -> Iterator[tuple[Segment, int]]:
        """Give the program headers of a mapping, and the places in the file that they name."""
        mapping = one.mapping
        at, end = mapping.start, mapping.end
        places = list(self._places.of(at, at + one.size))
        bounds = [at, *(place.start for place in places), end]
        if bounds[1] > at:
            yield Segment(at, bounds[1] - at, 0, mapping.elf_flags), 0
        for place, following in zip(places, bounds[2:], strict=True):
            yield Segment(place.start, following - place.start, place.size, mapping.elf_flags), place.at


class _Found(NamedTuple):
    """A mapping that goes into the core, and where it is read."""

    chosen: Chosen
    part: Part
    is_live: bool
    is_early: bool

    @property
    def shared(self) -> bool:
        return self.chosen.mapping.shared

    @property
    def empty_is_zero(self) -> bool:
        return self.chosen.mapping.empty_is_zero


class _Now:
    """What of the private memory is another content than when it was copied."""

    def __init__(
        self, captured: Captured, found: Sequence[_Found], copied: Sequence[tuple[int, int]]
    ) -> None:
        """``copied``: addresses, start and end, of which something may be in the file already."""
        changes = captured.changes
        assert changes is not None
        written = list(pagemap.spans(pagemap.runs(changes.written)))
        empty = list(pagemap.spans(pagemap.runs(changes.empty)))
        others = list(pagemap.joined(sorted(changes.others), near=0))
        self.read = changes.read or ()
        """What was read while the process stood."""
        self.written: list[tuple[int, int]] = []
        self.emptied: list[tuple[int, int]] = []
        """What is zeros now."""
        self.to_read: list[Part] = []
        """What is still to be read."""
        self.lost: list[Range] = []
        """What could not be read."""
        self.left: list[tuple[Part, Range]] = []
        """What was not read in the end."""
        known: list[tuple[int, int]] = []
        for one in found:
            if one.shared:
                continue
            part = one.part
            changed = list(_inside(written, part.start, part.end))
            self.written += changed
            known += changed
            if changes.read is None:
                self.to_read += [_part(part, *span) for span in changed]
            if one.empty_is_zero:
                nothing = list(_inside(empty, part.start, part.end))
                self.emptied += [span for start, end in nothing for span in _inside(copied, start, end)]
                known += nothing
                continue
            again = list(_inside(others, part.start, part.end))
            known += again
            if changes.read is None:
                self.to_read += [_part(part, *span) for span in again]
        self.known = [Range(start, end - start) for start, end in pagemap.joined(sorted(known), near=0)]
        """What need not have been read before."""


def _range(part: Part) -> Range:
    return Range(part.start, part.size)


def _part(part: Part, start: int, end: int) -> Part:
    """Cut a part."""
    if isinstance(part.held, memoryview):
        part = part._replace(held=part.held[start - part.start : end - part.start])
    return part._replace(start=start, size=end - start)


def _inside(spans: Sequence[tuple[int, int]], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Give what of some spans, start and end, is within two addresses; they ascend, and none overlap."""
    first = max(bisect.bisect_right(spans, (start, _BEHIND_ALL)) - 1, 0)
    for one, other in itertools.islice(spans, first, None):
        if one >= end:
            return
        if other > start:
            yield max(start, one), min(end, other)
