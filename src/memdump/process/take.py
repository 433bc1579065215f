"""From a captured process to the stream of its core."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import MemdumpError
from memdump.machine import host
from memdump.machine.pipeline import Digest, ReadAhead, Stream
from memdump.machine.source import Range
from memdump.process import architecture, backing, corefile, maps, notes, pagemap, proc, selection
from memdump.process.capture import FORK, LIVE, PRECOPY
from memdump.process.corefile import Segment
from memdump.process.lanes import Lanes
from memdump.process.memory import CapturedMemory, Memory, Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Mapping as Dictionary

    from memdump.machine.host import Instant
    from memdump.machine.output import Output
    from memdump.process.capture import Captured
    from memdump.process.guardian import Guardian
    from memdump.process.maps import Details, Mapping
    from memdump.process.notes import Owner
    from memdump.process.selection import Choice, Chosen

_WIPED = "wf"
_VAST, _HARDLY = 1 << 30, 8
"""Bytes of a mapping that is cut, if less than this part of it is used."""


class Core(NamedTuple):
    """A core that is to be written."""

    front: bytes
    """What stands in front of the memory."""
    parts: list[Part]
    live: list[Range]
    """What the process may change while it is read."""
    skipped: dict[str, list[Range]]
    """What is left out, by the reason."""
    read_early: list[Range]
    """What was read while the process stood."""

    @property
    def size(self) -> int:
        """Bytes of the whole core."""
        return len(self.front) + sum(part.size for part in self.parts)


class Taken(NamedTuple):
    """What was written, and how it went."""

    started: Instant
    ended: Instant
    size: int
    """Bytes of the core."""
    sha256: str | None
    unreadable: Sequence[Range]
    not_taken: Sequence[Range]
    stopped_by: str | None
    total_seconds: float
    reading_seconds: float
    hashing_seconds: float
    writing_seconds: float


class SharedOnce:
    """Remembers which shared memory of a set of processes is in a core already."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], list[tuple[int, int]]] = {}

    def leave_out(self, one: Chosen) -> Chosen:
        """Leave a shared mapping out, all of which is in a core before."""
        mapping = one.mapping
        if not mapping.shared or not one.size:
            return one
        seen = self._seen.setdefault((mapping.device, mapping.inode), [])
        first, end = mapping.offset, mapping.offset + one.size
        if any(start <= first and end <= stop for start, stop in seen):
            return one._replace(size=0, reason="shared-once")
        seen.append((first, end))
        return one


@contextlib.contextmanager
def core(
    captured: Captured,
    guardian: Guardian,
    details: Dictionary[tuple[int, int], Details],
    choice: Choice,
    owner: Owner,
    once: SharedOnce | None = None,
) -> Iterator[Core]:
    """Lay out the core of a process; its memory is held open while the block is being executed."""
    mappings = maps.parse(captured.maps)
    holder = holder_of(captured)
    chosen = choose(mappings, details, choice, holder)
    if once:
        chosen = [once.leave_out(one) for one in chosen]
    with contextlib.ExitStack() as stack:
        sources = Sources(captured, guardian, stack)
        parts: list[Part] = []
        segments: list[Segment] = []
        live, early = [], []
        for one in chosen:
            if not one.size:
                segments.append(Segment(one.mapping.start, one.mapping.size, 0, one.mapping.elf_flags))
                continue
            part, is_live, is_early = sources.part(one)
            for start, size, in_file in spans(one, part, holder):
                segments.append(Segment(start, size, in_file, one.mapping.elf_flags))
                parts += [part._replace(start=start, size=in_file)] * bool(in_file)
            live += [Range(part.start, part.size)] * is_live
            early += [Range(part.start, part.size)] * is_early
        known = architecture.this().of(captured.threads[0].registers)
        noted = notes.notes(captured, owner, mappings, known.bits)
        front = corefile.begin(known.elf_machine, noted, segments, known.bits)
        yield Core(front, parts, live, skipped_of(chosen), early)


def holder_of(captured: Captured) -> int:
    """Give the process or thread whose memory is read."""
    return captured.child or captured.threads[0].tid


def choose(
    mappings: Sequence[Mapping], details: Dictionary[tuple[int, int], Details], choice: Choice, holder: int
) -> list[Chosen]:
    """Decide what of the mappings goes into a core."""
    return [_as_far_as_its_file(one, holder) for one in selection.choose(mappings, details, choice)]


def has_holes(one: Chosen) -> bool:
    """Whether it pays to ask first which pages there are."""
    empty_is_zero = one.mapping.empty_is_zero and not one.details.provided
    return empty_is_zero and one.details.resident < one.mapping.size // 8 * 7


def _as_far_as_its_file(one: Chosen, pid: int) -> Chosen:
    """Leave out of a mapping what is beyond the end of its file, where there is nothing."""
    if not one.size or not one.mapping.of_file or one.details.resident >= one.mapping.size:
        return one
    size = backing.end_in(one.mapping, pid)
    return one._replace(size=size, reason="empty") if size < one.size else one


def spans(one: Chosen, part: Part, pid: int) -> list[tuple[int, int, int]]:
    """Cut a vast mapping where there is nothing: start, size, and bytes in the file, of each piece."""
    mapping = one.mapping
    runs = _runs(one, part, pid)
    if runs is None:
        return [(mapping.start, mapping.size, one.size)]
    spans, at = [], mapping.start
    for start, end in runs:
        if start > at:
            spans.append((at, start - at, 0))
        spans.append((start, end - start, end - start))
        at = end
    if at < mapping.end:
        spans.append((at, mapping.end - at, 0))
    return spans


def _runs(one: Chosen, part: Part, pid: int) -> list[tuple[int, int]] | None:
    """Give the runs of a vast mapping, start and end, outside of which nothing is; None for all of it."""
    start, end, few = part.start, part.end, part.size // _HARDLY
    if part.size < _VAST or one.details.resident >= few or not isinstance(part.held, Memory):
        return None
    runs = part.held.populated(start, end)
    if part.private:
        return runs
    data = backing.data_in(one.mapping, pid) if one.mapping.of_file else None
    if data is None or sum(last - first for first, last in data) >= few:
        return None
    # What was written a moment ago may have no place in the file yet.
    return list(pagemap.joined(sorted([*data, *runs])))


def skipped_of(chosen: Sequence[Chosen]) -> dict[str, list[Range]]:
    """Give what is left out of a core, by the reason."""
    skipped: dict[str, list[Range]] = {}
    for one in chosen:
        left = one.mapping.size - one.size
        if one.reason is not None and left:
            skipped.setdefault(one.reason, []).append(Range(one.mapping.start + one.size, left))
    return skipped


class Sources:
    """Knows where the memory of a captured process is held; what it opens ``stack`` closes."""

    def __init__(self, captured: Captured, guardian: Guardian, stack: contextlib.ExitStack) -> None:
        self._captured = captured
        self._guardian = guardian
        self._early = {(one.start, one.size): one.at for one in captured.early}
        self._stack = stack
        self._target: Memory | None = None
        self._copy: Memory | None = None
        self._copied: set[tuple[int, int]] = set()
        if captured.child is not None:
            self._copy = self._open(captured.child)
            self._copied = {(one.start, one.end) for one in maps.parse(proc.read(captured.child, "maps"))}

    def part(self, one: Chosen) -> tuple[Part, bool, bool]:
        """Give where a mapping is read, whether it is live there, and whether it was read in the stop."""
        mapping, size = one.mapping, one.size
        at = self._early.get((mapping.start, mapping.size))
        if at is not None:
            return Part(mapping.start, size, self._guardian.early(at, size), False), False, True
        if self._is_copied(mapping, one.details):
            assert self._copy is not None
            return Part(mapping.start, size, self._copy, has_holes(one)), mapping.shared, False
        if self._target is None:
            self._target = self._open(self._captured.threads[0].tid)
        return (
            Part(mapping.start, size, self._target, has_holes(one)),
            self._captured.mode in (FORK, LIVE) or (self._captured.mode == PRECOPY and mapping.shared),
            False,
        )

    def _is_copied(self, mapping: Mapping, details: Details) -> bool:
        return (mapping.start, mapping.end) in self._copied and _WIPED not in details.flags

    def _open(self, pid: int) -> Memory:
        try:
            memory = Memory(pid)
        except OSError as error:
            raise MemdumpError(
                f"process {self._captured.pid}: its memory cannot be opened: {error.strerror}"
            ) from None
        self._stack.callback(memory.close)
        return memory


def write(
    found: Core, stream: Stream, progress: Callable[[int], None], stop: Callable[[], str | None]
) -> Taken:
    """Write a core to a stream, and take its digest; ``stop`` may give a reason to end early."""
    clock, started = time.monotonic(), host.now()
    digest = Digest(stream)
    source = CapturedMemory(found.parts)
    reader = ReadAhead(source, source.ranges(), host.PAGE_SIZE)
    stopped_by, reached = None, 0
    try:
        digest.write(found.front)
        with contextlib.closing(reader.blocks()) as blocks:
            for address, data in blocks:
                stopped_by = stop()
                if stopped_by:
                    break
                digest.write(data)
                reached = address + len(data)
                progress(digest.size)
    except MemdumpError as error:
        stopped_by = str(error)
    finally:
        sha256 = digest.close()
    return Taken(
        started=started,
        ended=host.now(),
        size=digest.size,
        sha256=sha256,
        unreadable=[lost for lost in reader.unreadable if not stopped_by or lost.end <= reached],
        not_taken=behind(found.parts, reached) if stopped_by else [],
        stopped_by=stopped_by,
        total_seconds=time.monotonic() - clock,
        reading_seconds=reader.seconds,
        hashing_seconds=digest.hashing_seconds,
        writing_seconds=digest.writing_seconds,
    )


def copy(
    found: Core, output: Output, progress: Callable[[int], None], stop: Callable[[], str | None]
) -> Taken:
    """Write a core to a file that nothing else is done to; ``stop`` may give a reason to end early."""
    clock, started = time.monotonic(), host.now()
    source = CapturedMemory(found.parts)
    ranges = source.ranges()
    lanes, missing = None, ranges
    try:
        output.write(found.front)
        output.write_directly()
        lanes = Lanes(source, ranges, output)
        stopped_by = lanes.copy(progress, stop)
        missing = behind(found.parts, lanes.missing.start) if lanes.missing else []
    except MemdumpError as error:
        stopped_by = str(error)
    return Taken(
        started=started,
        ended=host.now(),
        size=output.position,
        sha256=None,
        unreadable=lanes.unreadable if lanes else [],
        not_taken=missing,
        stopped_by=stopped_by,
        total_seconds=time.monotonic() - clock,
        reading_seconds=lanes.reading_seconds if lanes else 0.0,
        hashing_seconds=0.0,
        writing_seconds=lanes.writing_seconds if lanes else 0.0,
    )


def behind(parts: Sequence[Part], reached: int) -> list[Range]:
    """Give what of the parts is behind an address."""
    starts = [(max(part.start, reached), part.end) for part in parts if part.end > reached]
    return [Range(start, end - start) for start, end in starts]
