"""The whole way from a source to a LiME stream."""

import contextlib
import time
from typing import Callable, List, NamedTuple, Optional, Sequence

from memdump.errors import MemdumpError
from memdump.machine import broken, lime, pieces
from memdump.machine.host import Instant
from memdump.machine.pipeline import LAG, Block, Digest, ReadAhead, Stream
from memdump.machine.source import Range, Source
from memdump.machine.stage import Stage

Stop = Callable[[], Optional[str]]
"""Gives a reason to end early, once there is one."""


class Plan(NamedTuple):
    """How to go about it."""

    stage: Optional[Stage] = None
    """Where the kernel's pages wait that are taken before all others; none for ascending order."""
    skip_free: bool = False
    """Leave out pages that nobody uses."""
    max_rate: Optional[int] = None
    """Bytes per second that are not to be exceeded."""


class Taken(NamedTuple):
    """What was taken, and how it went."""

    started: Instant
    ended: Instant
    ranges: Sequence[Range]
    """What was to be taken."""
    unreadable: Sequence[Range]
    """What could not be read, and stands as zeros in the image."""
    skipped: pieces.Ranges
    """What was left out because nobody used it."""
    not_taken: Sequence[Range]
    """What is missing because the run was stopped."""
    kernel_first: bool
    staged: int
    """Bytes of the kernel's pages that were taken before all others."""
    unstaged: int
    """Bytes of such pages for which there was no room."""
    size: int
    """Bytes of the LiME stream."""
    sha256: Optional[str]
    """Its digest; none where it is not known, since the destination failed (`arrived`)."""
    stopped_by: Optional[str]
    """Why it is not whole."""
    pauses: Sequence[float]
    """Seconds that the machine stood still, each time."""
    total_seconds: float
    staging_seconds: float
    reading_seconds: float
    hashing_seconds: float
    writing_seconds: float

    @property
    def complete(self) -> bool:
        """Whether all ranges are in the image; unreadable pages are no reason against it."""
        return self.stopped_by is None


def image_size(ranges: Sequence[Range]) -> int:
    """Count the bytes that the image of these ranges will have, if no page is left out."""
    piece = pieces.piece_size(ranges)
    return sum(found.size + lime.HEADER.size * -(-found.size // piece) for found in ranges)


def acquire(source: Source, stream: Stream, plan: Plan, progress: Callable[[int], None], stop: Stop) -> Taken:
    """Write all memory of ``source`` to ``stream`` in the LiME format, and tell how it went.

    ``progress`` gets the bytes written so far, ``stop`` may give a reason to end early; both are called once
    a block.  The image ends with the next whole piece then, so it is a valid one of less memory; where the
    stream itself fails, it is cut off.  Pages that cannot be read become zeros.
    """
    ranges = list(source.ranges())
    digest = Digest(stream, LAG)
    clock = time.monotonic()
    started = source.now()
    stage, stopped_by, reached = None, None, 0
    staging = 0.0
    reader = ReadAhead(source, ranges, source.page_size)
    source.begin()
    try:
        stage = _sweep(source, ranges, plan.stage, stop)
        staging = time.monotonic() - clock
        reader = ReadAhead(source, ranges, source.page_size, stage, plan.skip_free)
        writer = _Writer(digest, ranges, plan, progress)
        with contextlib.closing(reader.blocks()) as blocks:
            for block in blocks:
                if writer.piece_end <= block.address:
                    stopped_by = stop()
                    if stopped_by:
                        break
                writer.write(block)
                reached = block.address + len(block.data)
    except MemdumpError as error:
        stopped_by = str(error)
    finally:
        pauses = source.end()
        sha256 = digest.close()
    lost = pieces.without(broken.pages(source, ranges), reader.skipped)
    return Taken(
        started=started,
        ended=source.now(),
        ranges=ranges,
        unreadable=_below(broken.joined(reader.unreadable, lost), reached, stopped_by),
        skipped=reader.skipped.below(reached) if stopped_by else reader.skipped,
        not_taken=_above(ranges, reached) if stopped_by else [],
        kernel_first=stage is not None,
        staged=stage.taken if stage else 0,
        unstaged=stage.left if stage else 0,
        size=digest.size,
        sha256=sha256,
        stopped_by=stopped_by,
        pauses=pauses,
        total_seconds=time.monotonic() - clock,
        staging_seconds=staging,
        reading_seconds=reader.seconds,
        hashing_seconds=digest.hashing_seconds,
        writing_seconds=digest.writing_seconds,
    )


def _sweep(source: Source, ranges: Sequence[Range], stage: Optional[Stage], stop: Stop) -> Optional[Stage]:
    """Fill the stage; give none where the order is to be ascending, or has to be."""
    if stage is not None:
        try:
            stage.sweep(source, pieces.blocks(ranges), stop)
        except OSError:
            return stage if stage.taken else None
    return stage


class _Writer:
    """Puts range headers between the blocks and keeps to a rate."""

    def __init__(
        self, digest: Digest, ranges: Sequence[Range], plan: Plan, progress: Callable[[int], None]
    ) -> None:
        self.piece_end = 0
        """Where the memory ends that the last header announced."""
        self._digest = digest
        self._ends = iter([found.end for found in ranges])
        self._range_end = 0
        self._piece = 0 if plan.skip_free else pieces.piece_size(ranges)
        self._rate = plan.max_rate
        self._progress = progress
        self._start = time.monotonic()

    def write(self, block: Block) -> None:
        """Write a block, with a header in front of it where a piece begins."""
        address, data = block
        if address >= self.piece_end:
            while self._range_end <= address:
                self._range_end = next(self._ends)
            # Which of the pages behind this block are free is not known yet.
            size = min(self._piece or len(data), self._range_end - address)
            lime.write_header(self._digest, Range(address, size))
            self.piece_end = address + size
        self._digest.write(data)
        self._progress(self._digest.size)
        if self._rate:
            ahead = self._digest.size / self._rate - (time.monotonic() - self._start)
            if ahead > 0:
                time.sleep(ahead)


def _below(ranges: Sequence[Range], reached: int, stopped_by: Optional[str]) -> List[Range]:
    """Keep what lies in the image: the reader was ahead of it when the run was stopped."""
    if stopped_by is None:
        return list(ranges)
    return [
        Range(found.start, min(found.end, reached) - found.start) for found in ranges if found.start < reached
    ]


def _above(ranges: Sequence[Range], reached: int) -> List[Range]:
    starts = [Range(max(found.start, reached), found.end) for found in ranges if found.end > reached]
    return [Range(start, end - start) for start, end in starts]
