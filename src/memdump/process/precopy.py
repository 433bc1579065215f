"""Copying a process while it runs, so that only what it has written to meanwhile is read while it stands.

So virtual machines are moved.  The kernel notes which pages are written to (`watching`).  All memory is
copied to the file, then what was written to meanwhile, and again; at last, while the process stands, the
little that is left (`capture.Changes`), or, if that is much, it is taken from a copy of the process.

Memory keeps the place in the file that it got first, and what comes later is put behind: the order in the
file is not that of the addresses, which program headers need not follow.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import MemdumpError
from memdump.machine import host, pieces
from memdump.machine.buffers import page_aligned
from memdump.machine.source import Range
from memdump.process import (
    architecture,
    backing,
    corefile,
    maps,
    notes,
    pagemap,
    proc,
    sparse,
    take,
    watching,
)
from memdump.process.capture import PRECOPY, Gone
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
    from memdump.process.places import Place
    from memdump.process.selection import Choice, Chosen

_VAST = 1 << 30
_AT_ONCE = 64 << 20
"""Bytes of addresses that are looked at in one go: meanwhile the process can map nothing."""
_PASSES, _ENOUGH, _LESS = 6, 1 << 20, 0.7
"""How often what was written to is copied again at most; with so few bytes, or hardly less than the time
before, the process is stopped."""
GONE = "the process has ended, or executes another program, before it was taken; nothing was kept"
_ROOM, _EACH = 1 << 20, 8 << 10
"""Bytes in front of the memory, and of these for each thread and mapping: more than what goes there."""
_BEHIND_THE_SCENES = ("anon_inode:[io_uring]", "anon_inode:kvm", "/dev/kvm", "/dev/vfio", "/dev/infiniband")
"""Names of what lets devices, guests or the kernel write to memory on their own."""


def reason_against(pid: int) -> str | None:
    """Say why a process cannot be copied while it runs; None where nothing is against it."""
    if not watching.is_supported():
        return "this kernel cannot watch what it writes (from Linux 6.12 on it can)"
    if proc.status(pid).number("VmPin") or _is_written_to_from_elsewhere(pid):
        return "not only its own instructions may write to its memory (io_uring, O_DIRECT, devices, guests)"
    return None


def _is_written_to_from_elsewhere(pid: int) -> bool:
    """Whether there is anything open through which memory is written to past the process's page tables."""
    folder = f"/proc/{proc.living(pid)}"
    for number in os.listdir(f"{folder}/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):  # it was closed
            if os.readlink(f"{folder}/fd/{number}").startswith(_BEHIND_THE_SCENES):  # noqa: PTH115
                return True
            flags = re.search(rb"^flags:\s+([0-7]+)$", proc.read(pid, f"fdinfo/{number}"), re.MULTILINE)
            if flags and int(flags[1], 8) & os.O_DIRECT:
                return True
    return False


class _Watched(Memory):
    """The memory of a process that is watched: it is protected before it is read, so no write is missed."""

    def __init__(self, pid: int) -> None:
        """Open it; raises ``OSError``."""
        super().__init__(pid)
        if self._pages is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self.used: list[tuple[int, int]] = []
        """Runs of pages, start and end, that have been something."""
        self.failed: list[Range] = []
        """What was written to, and could not be read again."""

    def read_into(self, address: int, buffer: memoryview) -> None:
        """Fill a buffer; raises ``OSError`` and `Gone`."""
        try:
            super().read_into(address, buffer)
        except MemdumpError:
            raise Gone(GONE) from None

    def read_private(self, address: int, buffer: memoryview) -> None:
        """Fill a buffer, with zeros where there are no pages, and where nothing is watched."""
        at, end = address, address + len(buffer)
        for start, stop in self._protect(at, end, pagemap.PROTECTED):
            buffer[at - address : start - address] = bytes(start - at)
            self.read_into(start, buffer[start - address : stop - address])
            at = stop
        buffer[at - address :] = bytes(end - at)

    def read_again(self, start: int, end: int, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Read what was written to since it was protected, and protect it again: addresses and content."""
        for first, last in self._protect(start, end, pagemap.AGAIN):
            part = Part(first, last - first, self, private=False)
            for block in pieces.blocks([_range(part)]):
                data = buffer[: block.size]
                # Of what is gone by now the stop will tell.
                self.failed += pieces.read_block(CapturedMemory([part]), block.start, data, host.PAGE_SIZE)
                yield block.start, data

    def _protect(self, start: int, end: int, wanted: pagemap.Wanted) -> list[tuple[int, int]]:
        """Protect pages that are there; gives their runs.  Raises `Gone`."""
        try:
            runs = self.scan(start, end, wanted)
        except ProcessLookupError:
            raise Gone(GONE) from None
        found = list(pagemap.joined(pagemap.spans(runs), near=0))
        self.used += found
        return found


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
            if one.size and one.mapping.empty_is_zero:
                part = Part(one.mapping.start, one.size, self._memory, private=True)
                for start, _, in_file in take.spans(one, part, living):
                    self._parts += [part._replace(start=start, size=in_file)] * bool(in_file)
        for part in self._parts:
            self._places.give(part.start, part.end)

    @property
    def size(self) -> int:
        """Bytes that are copied at first."""
        return self._places.end - self._room

    def close(self) -> None:
        """Let go of the process."""
        self._memory.close()

    # While the process runs.

    def copy(self, progress: Callable[[int], None], stop: Callable[[], str | None]) -> None:
        """Copy it, and what it writes to meanwhile; raises `MemdumpError` where that ends early."""
        self._output.skip(self._room)
        self._output.write_directly()
        reason = self._copy_parts(self._parts, progress, stop)
        if reason:
            raise MemdumpError(reason)
        before = 0
        for _ in range(_PASSES):
            size = self._copy_again(stop)
            if size <= _ENOUGH or (before and size > before * _LESS):
                break
            before = size
        fresh = maps.parse_details(proc.read(proc.living(self._pid), "smaps"))
        self._details = {key: found._replace(flags=found.flags - {"uw"}) for key, found in fresh.items()}

    def _copy_parts(
        self, parts: list[Part], progress: Callable[[int], None], stop: Callable[[], str | None]
    ) -> str | None:
        source = CapturedMemory(parts)
        self._lanes.append(Lanes(source, source.ranges(), self._output))
        return self._lanes[-1].copy(progress, stop)

    def _copy_again(self, stop: Callable[[], str | None]) -> int:
        """Copy what was written to since it was copied last; gives bytes."""
        size, buffer = 0, page_aligned(pieces.BLOCK)
        for first, last in pagemap.joined(self._places.spans(), near=0):
            for start in range(first, last, _AT_ONCE):
                reason = stop()
                if reason:
                    raise MemdumpError(reason)
                for address, data in self._memory.read_again(start, min(start + _AT_ONCE, last), buffer):
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

    def _erase(self, places: Iterable[Place]) -> None:
        for place in places:
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
        due = _Due(captured, self._memory.used)
        details = due.corrected(self._details, mappings)
        chosen = take.choose(mappings, details, self._choice, take.holder_of(captured))
        with contextlib.ExitStack() as stack:
            sources = _Sources(captured, guardian, stack)
            found = [sources.found(one) for one in chosen if one.size]
            due.add(found)
            reason = None
            try:
                reason = self._copy_rest(found, due, progress, stop)
                reason = self._change(found, due, guardian, stop) or reason
            except MemdumpError as error:
                reason = reason or str(error)
        return self._end(captured, owner, mappings, chosen, found, due, reason)

    def _copy_rest(
        self,
        found: Sequence[_Found],
        due: _Due,
        progress: Callable[[int], None],
        stop: Callable[[], str | None],
    ) -> str | None:
        """Copy what could not be copied before, and give places to what has come meanwhile."""
        rest: list[Part] = []
        for one in found:
            if not one.was_watched:
                self._erase(self._places.take_back(one.part.start, one.part.end))
                spans = take.spans(one.chosen, one.part, self._pid)
                rest += [one.part._replace(start=start, size=size) for start, _, size in spans if size]
        for part in rest:
            self._places.give(part.start, part.end)
        for one in found:
            if one.was_watched:
                for start, end in list(self._places.without(one.part.start, one.part.end)):
                    new = [(start, end)]
                    if end - start >= _VAST:
                        new = list(pagemap.joined(pagemap.inside(due.written, start, end)))
                    for span in new:
                        self._places.give(*span)
        due.whole = [_range(part) for part in rest]
        reason = self._copy_parts(rest, progress, stop)
        missing = self._lanes[-1].missing
        due.whole = take.behind(rest, missing.start) if missing else []
        return reason

    def _change(
        self, found: Sequence[_Found], due: _Due, guardian: Guardian, stop: Callable[[], str | None]
    ) -> str | None:
        """Write what is another content now; gives the reason where that comes to an early end."""
        had = [Range(start, end - start) for start, end in pagemap.joined(self._places.spans(), near=0)]
        for gone in pieces.without(had, [_range(one.part) for one in found]):
            self._erase(self._places.of(gone.start, gone.end))
        for start, end in due.zeros:
            self._erase(self._places.of(start, end))
        while due.early:
            self._put(due.early[0].start, guardian.early(due.early[0].at, due.early[0].size))
            due.early.pop(0)
        buffer = page_aligned(pieces.BLOCK)
        while due.read:
            reason = stop()
            if reason:
                return reason
            part, block = due.read[0]
            data = buffer[: block.size]
            due.lost += pieces.read_block(CapturedMemory([part]), block.start, data, host.PAGE_SIZE)
            self._put(block.start, data)
            due.read.pop(0)
        return None

    def _end(
        self,
        captured: Captured,
        owner: Owner,
        mappings: list[Mapping],
        chosen: Sequence[Chosen],
        found: Sequence[_Found],
        due: _Due,
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
        core = Core(
            front=b"".join(data for _, data in front),
            parts=parts,
            live=[_range(one.part) for one in found if one.is_live],
            skipped=take.skipped_of(chosen),
            read_early=[*(_range(one.part) for one in found if one.is_early), *due.read_early],
        )
        taken = Taken(
            started=self._started,
            ended=host.now(),
            size=self._output.position,
            sha256=None,
            unreadable=pieces.within(due.unreadable(self._lanes, self._memory.failed), ranges),
            not_taken=pieces.within(due.not_taken, ranges) if reason else [],
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
        for place, following in zip(places, bounds[2:]):  # noqa: B905 (Python 3.8)
            yield Segment(place.start, following - place.start, place.size, mapping.elf_flags), place.at


class _Found(NamedTuple):
    """A mapping that goes into the core, and where it is read."""

    chosen: Chosen
    part: Part
    is_live: bool
    is_early: bool

    @property
    def was_watched(self) -> bool:
        """Whether it is memory of the kind that is copied while the process runs."""
        return self.chosen.mapping.empty_is_zero


class _Sources(Sources):
    """Knows where the memory is held, of a process also that runs on without a copy of it."""

    def __init__(self, captured: Captured, guardian: Guardian, stack: contextlib.ExitStack) -> None:
        super().__init__(captured, guardian, stack)
        self._files: dict[tuple[str, int], int] = {}

    def found(self, one: Chosen) -> _Found:
        """Tell of a mapping.

        The pages of a private mapping of a file that are the file's still are read from that, since the
        process may write to them by now; those that are its own were read in the stop.
        """
        found = _Found(one, *self.part(one))
        mapping = one.mapping
        if self._captured.mode != PRECOPY or mapping.shared or not mapping.of_file:
            return found
        key = mapping.device, mapping.inode
        try:
            if key not in self._files:
                self._files[key] = backing.opened(mapping, self._captured.pid)
                self._stack.callback(os.close, self._files[key])
        except OSError:
            return found._replace(is_live=True)
        held = backing.Content(mapping, self._files[key])
        return found._replace(part=found.part._replace(held=held, private=False))


class _Due:
    """What is still to be written, once the process was stopped."""

    def __init__(self, captured: Captured, used: Iterable[tuple[int, int]]) -> None:
        """``used``: the runs of pages, start and end, of which something is in the file."""
        changes = captured.changes
        assert changes is not None
        self._changes = changes
        self._used = list(pagemap.joined(sorted(used), near=0))
        self._known: list[tuple[int, int]] = []
        """What was written to or is empty, so that it does not matter what was read of it before."""
        self.written = list(pagemap.joined(sorted(pagemap.spans(pagemap.runs(changes.written))), near=0))
        """What was written to, start and end of each run."""
        self.whole: list[Range] = []
        """What is copied as a whole."""
        self.zeros = list(changes.unreadable)
        """What stands as zeros, start and end of each run."""
        self.early = list(changes.read or ())
        """What was read in the stop."""
        self.read_early = [Range(early.start, early.size) for early in self.early]
        self.read: list[tuple[Part, Range]] = []
        """What is to be read of a copy, or of the process, which stands."""
        self.lost = [Range(start, end - start) for start, end in changes.unreadable]
        """What cannot be read."""

    def corrected(
        self, details: Dictionary[tuple[int, int], Details], mappings: Iterable[Mapping]
    ) -> dict[tuple[int, int], Details]:
        """Bring what was known of the mappings before the stop to the instant of it."""
        now = dict(details)
        for mapping in mappings:
            key = mapping.start, mapping.end
            if not mapping.shared and any(pagemap.inside(self.written, *key)):
                found = now.get(key, maps.Details())
                now[key] = found._replace(resident=found.resident or 1, anonymous=found.anonymous or 1)
        return now

    def add(self, found: Iterable[_Found]) -> None:
        """Find out what is due of mappings."""
        empty = list(pagemap.joined(sorted(pagemap.spans(pagemap.runs(self._changes.empty))), near=0))
        for one in found:
            if not one.was_watched:
                continue
            part = one.part
            changed = list(pagemap.inside(self.written, part.start, part.end))
            nothing = list(pagemap.inside(empty, part.start, part.end))
            self._known += [*changed, *nothing]
            self.zeros += [span for run in nothing for span in pagemap.inside(self._used, *run)]
            if self._changes.read is None:
                spans = [Range(start, end - start) for start, end in changed]
                self.read += [(part, block) for block in pieces.blocks(spans)]

    @property
    def not_taken(self) -> list[Range]:
        """What is in the file as it was before, or not at all."""
        early = [Range(early.start, early.size) for early in self.early]
        return pieces.joined([*self.whole, *early, *(block for _, block in self.read)])

    def unreadable(self, lanes: Sequence[Lanes], failed: Iterable[Range]) -> list[Range]:
        """Give what could be read neither while the process ran nor later."""
        before, *later = (one.unreadable for one in lanes)
        known = pieces.joined([Range(start, end - start) for start, end in self._known])
        lost = pieces.without(pieces.joined([*before, *failed]), known)
        for one in later:
            lost += pieces.without(one, pieces.joined(self.read_early))
        return pieces.joined([*lost, *self.lost])


def _range(part: Part) -> Range:
    return Range(part.start, part.size)
