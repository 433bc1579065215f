"""Copying memory to a file in several lanes at once, where nothing else is to be done with the bytes.

Each lane reads a block and writes it to its place in the file, while the others read or write theirs.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import MemdumpError
from memdump.machine import pieces
from memdump.machine.host import PAGE_SIZE
from memdump.process import sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memdump.machine.output import Output
    from memdump.machine.source import Range, Source

_LANES = min(2, os.cpu_count() or 1)
"""A file takes the bytes of one lane at a time; meanwhile another one reads."""


class _Piece(NamedTuple):
    """A block, and where it goes in the file."""

    at: int
    memory: Range


class Lanes:
    """Copies memory to a file, behind what stands there already."""

    def __init__(self, source: Source, ranges: Sequence[Range], output: Output) -> None:
        self.reading_seconds = 0.0
        """Time spent reading, by all lanes together."""
        self.writing_seconds = 0.0
        """Time spent writing, by all lanes together."""
        self.unreadable: list[Range] = []
        """The pages that could not be read, neighbours joined."""
        self.missing: Range | None = None
        """The first block that is not in the file, where the copying ended early."""
        self._source = source
        self._output = output
        self._end = output.position + sum(found.size for found in ranges)
        self._pieces = _pieces(ranges, output.position)
        self._lost: list[Range] = []
        self._missing: list[_Piece] = []
        self._errors: list[BaseException] = []
        self._lock = threading.Lock()

    def copy(self, progress: Callable[[int], None], stop: Callable[[], str | None]) -> str | None:
        """Copy all, and give the reason where it ended early: one that ``stop`` gave, or what failed.

        ``progress`` gets the bytes that are in the file.  Both are called by the thread that calls this.  The
        file ends where the first block is missing.
        """
        others = [threading.Thread(target=self._run, name="lane") for _ in range(_LANES - 1)]
        for lane in others:
            lane.start()
        reason = None
        try:
            for at in self._copied():
                progress(at)
                reason = stop()
                if reason:
                    break
        finally:
            self._end_others(others)
            self._output.end_at(self._end)
        for error in self._errors:
            if not isinstance(error, MemdumpError):
                raise error
            reason = reason or str(error)
        return reason

    def _run(self) -> None:
        for _ in self._copied():
            pass

    def _copied(self) -> Iterator[int]:
        """Copy block after block; gives the place in the file behind each."""
        buffer = self._source.buffer(pieces.BLOCK)
        times = [0.0, 0.0]
        try:
            while piece := self._next():
                try:
                    lost = self._copy(piece, buffer[: piece.memory.size], times)
                except BaseException as error:  # it is raised again, or told, by `copy`
                    with self._lock:
                        self._errors.append(error)
                        self._missing.append(piece)
                    break
                with self._lock:
                    self._lost += lost
                yield piece.at + piece.memory.size
        finally:
            with self._lock:
                self.reading_seconds += times[0]
                self.writing_seconds += times[1]

    def _copy(self, piece: _Piece, data: memoryview, times: list[float]) -> list[Range]:
        """Copy a block, and give the pages that cannot be read; adds up the seconds of both steps."""
        started = time.monotonic()
        lost = pieces.read_block(self._source, piece.memory.start, data, PAGE_SIZE)
        read = time.monotonic()
        for start, end, zeros in sparse.runs(data):
            if not zeros:
                self._output.write_at(data[start:end], piece.at + start)
        times[0] += read - started
        times[1] += time.monotonic() - read
        return lost

    def _next(self) -> _Piece | None:
        with self._lock:
            return None if self._missing else next(self._pieces, None)

    def _end_others(self, others: Sequence[threading.Thread]) -> None:
        """Let the lanes finish what they have begun, and find where the first block is missing."""
        with self._lock:
            left = next(self._pieces, None)
            self._missing += [left] if left else []
        for lane in others:
            lane.join()
        first = min(self._missing, default=None)
        if first:
            self._end, self.missing = first
        for lost in sorted(self._lost):
            if first is None or lost.start < first.memory.start:
                pieces.add(self.unreadable, lost)


def _pieces(ranges: Sequence[Range], at: int) -> Iterator[_Piece]:
    for block in pieces.blocks(ranges):
        yield _Piece(at, block)
        at += block.size
