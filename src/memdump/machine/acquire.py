"""The whole way from a source to a LiME stream."""

import contextlib
import time
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from memdump.errors import MemdumpError
from memdump.machine import broken, lime, pieces
from memdump.machine.host import Instant
from memdump.machine.pipeline import LAG, Block, Digest, ReadAhead, Stream
from memdump.machine.source import Range, Source
from memdump.machine.stage import NOTHING, Stage

_NAP = 0.5
"""Seconds after which somebody who waits looks whether to go on."""

Stop = Callable[[], Optional[str]]
"""Gives a reason to end early, once there is one."""


class Plan(NamedTuple):
    """How to go about it."""

    stage: Optional[Stage] = None
    """Where the kernel's pages wait that are taken before all others; none for ascending order."""
    skip_free: bool = False
    """Leave out pages that nobody uses."""
    max_rate: Optional[int] = None
    """Bytes per second that are not to be exceeded, early copies included, over the whole run."""


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
    added: Sequence[Range]
    """Memory that the machine was given meanwhile; none of it was taken."""
    removed: Sequence[Range]
    """What of ``ranges`` the machine lost meanwhile, or its kernel took out of use."""
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


def acquire(
    source: Source,
    stream: Stream,
    plan: Plan,
    progress: Callable[[int], None],
    stop: Stop,
    trouble: Stop = lambda: None,
) -> Taken:
    """Write all memory of ``source`` to ``stream`` in the LiME format, and tell how it went.

    ``progress`` gets the bytes that were taken early and written so far, once a block.  ``stop`` may give a
    reason to end early, and ``trouble`` one once the stream is not going to take much more; both are asked
    once a piece.  The image ends with the next whole piece then, so it is a valid one of less memory; the
    early copies that are still waiting follow it, unless it is the stream that is in trouble.  A source that
    is lost is such an end too; where the stream itself fails, the image is cut off.  Pages that cannot be
    read become zeros.
    """
    ranges = list(source.ranges())
    digest = Digest(stream, LAG)
    clock = time.monotonic()
    started = source.now()
    stage, stopped_by = None, None
    staging = 0.0
    added: List[Range] = []
    removed: List[Range] = []
    reader = ReadAhead(source, ranges, source.page_size, plan.stage, plan.skip_free)
    writer = _Writer(digest, ranges, plan, progress)
    try:
        source.begin()
        unused = source.offline()
        stage, stopped_by = _sweep(source, ranges, plan.stage, stop, progress)
        staging = time.monotonic() - clock
        if not stopped_by:
            stopped_by = writer.write_all(reader, stop, trouble)
        if stopped_by:
            writer.write_rest(trouble)
        now = source.ranges_now()
        added = pieces.without(now, ranges)
        removed = pieces.without(ranges, pieces.without(now, pieces.without(source.offline(), unused)))
    except MemdumpError as error:
        stopped_by = str(error)
    finally:
        pauses = source.end()
        sha256 = digest.close()
    there = ranges if stopped_by is None else writer.there(ranges)
    lost = pieces.without(broken.pages(source, ranges), reader.skipped)
    unreadable = pieces.joined([*reader.unreadable, *lost])
    return Taken(
        started=started,
        ended=source.now(),
        ranges=ranges,
        unreadable=pieces.within(pieces.joined([*unreadable, *writer.blank]), there),
        skipped=reader.skipped.below(writer.reached) if stopped_by else reader.skipped,
        not_taken=pieces.without(ranges, there),
        added=added,
        removed=removed,
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


def _sweep(
    source: Source,
    ranges: Sequence[Range],
    stage: Optional[Stage],
    stop: Stop,
    progress: Callable[[int], None],
) -> Tuple[Optional[Stage], Optional[str]]:
    """Fill the stage; give none where the order has to be ascending, and the reason if the source is lost."""
    if stage is None:
        return None, None
    try:
        stage.sweep(source, pieces.blocks(ranges), stop, progress)
    except OSError:
        return (stage if stage.taken else None), None
    except MemdumpError as error:
        return stage, str(error)
    return stage, None


class _Writer:
    """Puts range headers between the blocks and keeps to a rate."""

    def __init__(
        self, digest: Digest, ranges: Sequence[Range], plan: Plan, progress: Callable[[int], None]
    ) -> None:
        self.blank: List[Range] = []
        """What stands as zeros in the image because the source was lost before its piece was whole."""
        self._digest = digest
        self._ends = iter([found.end for found in ranges])
        self._range_end = 0
        self._piece = 0 if plan.skip_free else pieces.piece_size(ranges)
        self.reached = 0
        """The end of what is in the image without a gap."""
        self._piece_end = 0
        self._rest: List[Range] = []
        self._stage = plan.stage
        self._rate = plan.max_rate
        self._progress = progress
        self._start = time.monotonic()

    def there(self, ranges: Sequence[Range]) -> List[Range]:
        """Give what of all ``ranges`` is in the image by now."""
        return [*pieces.within(ranges, [Range(0, self.reached)]), *self._rest]

    def write_all(self, reader: ReadAhead, stop: Stop, trouble: Stop) -> Optional[str]:
        """Write what is read, and give the reason where that ends early; raises what the stream raises."""
        with contextlib.closing(reader.blocks()) as blocks:
            while True:
                try:
                    block = next(blocks, None)
                except MemdumpError as error:
                    self._end_piece()
                    return str(error)
                if block is None:
                    return None
                if self._piece_end <= block.address:
                    reason = self._wait(lambda: stop() or trouble())
                    if reason:
                        return reason
                self._write(block)

    def write_rest(self, trouble: Stop) -> None:
        """Write the early copies that lie behind all that is in the image, a range each."""
        for early in self._stage.rest(self.reached) if self._stage else ():
            if trouble():
                return
            for run, data in early.parts():
                inside = data[max(self.reached - run.start, 0) :]
                if inside:
                    found = Range(run.end - len(inside), len(inside))
                    lime.write_header(self._digest, found)
                    self._pass_on(inside)
                    pieces.add(self._rest, found)

    def _write(self, block: Block) -> None:
        """Write a block, with a header in front of it where a piece begins."""
        address, data = block
        if address >= self._piece_end:
            while self._range_end <= address:
                self._range_end = next(self._ends)
            # Which of the pages behind this block are free is not known yet.
            size = min(self._piece or len(data), self._range_end - address)
            lime.write_header(self._digest, Range(address, size))
            self._piece_end = address + size
        self._pass_on(data)
        self.reached = address + len(data)

    def _end_piece(self) -> None:
        """Fill the piece up to where its header said that it ends: with early copies, and zeros between."""
        while 0 < self.reached < self._piece_end:
            block = Range(self.reached, min(pieces.BLOCK, self._piece_end - self.reached))
            data = memoryview(bytearray(block.size))
            early = self._stage.early(block.start) if self._stage else NOTHING
            early.put(block.start, data)
            for gap in pieces.without([block], early.runs):
                pieces.add(self.blank, gap)
            self._write(Block(block.start, data))

    def _pass_on(self, data: memoryview) -> None:
        self._digest.write(data)
        self._progress(self._done())
        self._wait(lambda: None)

    def _done(self) -> int:
        return self._digest.size + (self._stage.read if self._stage else 0)

    def _wait(self, stop: Stop) -> Optional[str]:
        """Wait as long as the rate wants, unless there is a reason to stop, which is given."""
        while True:
            reason = stop()
            ahead = self._done() / self._rate - (time.monotonic() - self._start) if self._rate else 0.0
            if reason or ahead <= 0:
                return reason
            time.sleep(min(ahead, _NAP))
