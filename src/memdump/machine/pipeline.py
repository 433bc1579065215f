"""The steps between a source and a file; each runs beside the others, and memory goes through in blocks.

A step behind the source is a stream: it takes bytes with ``write`` and passes on what becomes of them.
"""

import collections
import hashlib
import queue
import threading
import time
from typing import Deque, Generator, Iterable, Iterator, List, NamedTuple, Optional, Protocol, Sequence, Union

from memdump.machine import pageflags, pieces
from memdump.machine.beside import Beside
from memdump.machine.source import Range, Source
from memdump.machine.stage import NOTHING, Stage

LAG = 1
"""Blocks whose bytes stay as they are after the next one was asked for."""
_AHEAD = 2
"""Buffers besides: one is being filled while the other is being written."""
_ANNOUNCED = 4
"""Blocks of which a source hears ahead."""


class Stream(Protocol):
    """What bytes are written to: a file, standard output, or a step before them."""

    def write(self, data: Union[bytes, memoryview], /) -> object:
        """Take all of ``data``, which is the caller's again afterwards."""


class Block(NamedTuple):
    """A piece of one range; its bytes are valid until `LAG` further blocks were asked for and another is."""

    address: int
    data: memoryview


class ReadAhead:
    """Reads all ranges of a source, in a thread of its own, a block ahead of those who use the blocks."""

    def __init__(
        self,
        source: Source,
        ranges: Sequence[Range],
        page_size: int,
        stage: Optional[Stage] = None,
        skip_free: bool = False,
    ) -> None:
        self.seconds = 0.0
        """Time spent reading."""
        self.unreadable: List[Range] = []
        """The pages that could not be read so far, neighbours joined."""
        self.skipped = pieces.Ranges()
        """The pages that were left out so far because nobody uses them."""
        self._source = source
        self._ranges = ranges
        self._page_size = page_size
        self._stage = stage
        self._skip_free = skip_free
        self._free: queue.Queue[Optional[memoryview]] = queue.Queue()
        self._full: queue.Queue[Union[_Filled, BaseException, None]] = queue.Queue()

    def blocks(self) -> Generator[Block, None, None]:
        """Yield the blocks in order; close the generator to end the thread early."""
        for _ in range(LAG + _AHEAD):
            self._free.put(self._source.buffer(pieces.BLOCK))
        reader = threading.Thread(target=self._read_all, name="reader")
        reader.start()
        used: Deque[memoryview] = collections.deque()
        try:
            while True:
                filled = self._full.get()
                if filled is None:
                    return
                if isinstance(filled, BaseException):
                    raise filled
                yield from filled.blocks
                used.append(filled.buffer)
                if len(used) > LAG:
                    self._free.put(used.popleft())
        finally:
            self._free.put(None)
            reader.join()

    def _read_all(self) -> None:
        try:
            for found in self._announced(pieces.blocks(self._ranges)):
                buffer = self._free.get()
                if buffer is None:
                    return
                start = time.monotonic()
                filled = _Filled(self._read(found, buffer[: found.size]), buffer)
                self.seconds += time.monotonic() - start
                self._full.put(filled)
            self._full.put(None)
        except BaseException as error:  # raised again where the blocks are used
            self._full.put(error)

    def _announced(self, blocks: Iterable[Range]) -> Iterator[Range]:
        """Pass the blocks on, and tell the source of each some time before its turn."""
        waiting: Deque[Range] = collections.deque()
        for block in blocks:
            waiting.append(block)
            self._source.expect([block])
            if len(waiting) > _ANNOUNCED:
                yield waiting.popleft()
        yield from waiting

    def _read(self, found: Range, data: memoryview) -> List[Block]:
        """Read a block, or what of it is in use, in the kernel's early copy where there is one."""
        early = self._stage.early(found.start) if self._stage is not None else NOTHING
        # Pages that were the kernel's when it was swept may be free by now; what they held is there.
        skipped = pieces.without(self._free_runs(found), early.runs)
        wanted = pieces.without([found], skipped)
        lost: List[Range] = []
        for run in wanted:
            inside = data[run.start - found.start : run.end - found.start]
            lost += pieces.read_block(self._source, run.start, inside, self._page_size)
        early.put(found.start, data)
        for page in pieces.without(lost, early.runs):
            pieces.add(self.unreadable, page)
        for run in skipped:
            self.skipped.add(run)
        return [Block(run.start, data[run.start - found.start : run.end - found.start]) for run in wanted]

    def _free_runs(self, found: Range) -> List[Range]:
        if not self._skip_free:
            return []
        try:
            flags = self._source.page_flags(found.start, found.size)
        except OSError:
            return []
        return pageflags.free_runs(flags, found.start, self._page_size)


class _Filled(NamedTuple):
    blocks: List[Block]
    buffer: memoryview


class Digest:
    """Passes bytes on and takes their SHA-256, both at the same time."""

    def __init__(self, stream: Stream, lag: int = 0) -> None:
        """Digest what is passed on to ``stream``.

        Where ``lag`` is given, the bytes of so many writes are left alone after `write` has returned, and may
        still be read: no step waits for the other then.
        """
        self.size = 0
        """Bytes that were passed on."""
        self.writing_seconds = 0.0
        self.hashing_seconds = 0.0
        self._stream = stream
        self._lag = lag
        self._hash = hashlib.sha256()
        self._before = self._hash
        self._hashing = Beside("hash")

    def write(self, data: Union[bytes, memoryview], /) -> None:
        """Take all of ``data``; raises what the stream behind raises."""
        self._hashing.start(lambda: self._update(data))
        start = time.monotonic()
        try:
            self._stream.write(data)
        except BaseException:
            self._hashing.wait()
            self._hash = self._before
            raise
        self.writing_seconds += time.monotonic() - start
        self._hashing.wait(self._lag)
        self.size += len(data)

    def close(self) -> str:
        """End the thread and give the digest, in hex, of the first ``size`` bytes."""
        self._hashing.close()
        return self._hash.hexdigest()

    def _update(self, data: Union[bytes, memoryview]) -> None:
        start = time.monotonic()
        self._before = self._hash.copy()
        self._hash.update(data)
        self.hashing_seconds += time.monotonic() - start
