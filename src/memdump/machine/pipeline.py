"""The steps between a source and a file; each runs beside the others, and memory goes through in blocks.

A step behind the source is a stream: it takes bytes with ``write`` and passes on what becomes of them.
"""

import hashlib
import queue
import threading
import time
from typing import Generator, List, NamedTuple, Optional, Protocol, Sequence, Union

from memdump.machine.beside import Beside
from memdump.machine.source import Range, Source

BLOCK = 2 << 20
"""Bytes read at once."""
_AHEAD = 2
"""Buffers: one is being filled while the other is being written."""


class Stream(Protocol):
    """What bytes are written to: a file, standard output, or a step before them."""

    def write(self, data: Union[bytes, memoryview], /) -> object:
        """Take all of ``data``, which is the caller's again afterwards."""


class Block(NamedTuple):
    """A piece of one range; its bytes are valid until the next block is asked for."""

    address: int
    data: memoryview


def read_block(source: Source, address: int, buffer: memoryview, page_size: int) -> List[Range]:
    """Fill ``buffer``, which starts at a page, and give the pages that cannot be read; they become zeros."""
    try:
        source.read_into(address, buffer)
    except OSError:
        if len(buffer) <= page_size:
            buffer[:] = bytes(len(buffer))
            return [Range(address, len(buffer))]
        half = max(len(buffer) // 2 // page_size, 1) * page_size
        return read_block(source, address, buffer[:half], page_size) + read_block(
            source, address + half, buffer[half:], page_size
        )
    return []


class ReadAhead:
    """Reads all ranges of a source, in a thread of its own, a block ahead of those who use the blocks."""

    def __init__(self, source: Source, ranges: Sequence[Range], page_size: int, block: int = BLOCK) -> None:
        self.seconds = 0.0
        """Time spent reading."""
        self.unreadable: List[Range] = []
        """The pages that could not be read so far, neighbours joined."""
        self._source = source
        self._ranges = ranges
        self._page_size = page_size
        self._block = block
        self._free: queue.Queue[Optional[memoryview]] = queue.Queue()
        self._full: queue.Queue[Union[_Filled, BaseException, None]] = queue.Queue()

    def blocks(self) -> Generator[Block, None, None]:
        """Yield the blocks in order; close the generator to end the thread early."""
        for _ in range(_AHEAD):
            self._free.put(memoryview(bytearray(self._block)))
        reader = threading.Thread(target=self._read_all, name="reader")
        reader.start()
        try:
            while True:
                filled = self._full.get()
                if filled is None:
                    return
                if isinstance(filled, BaseException):
                    raise filled
                yield filled.block
                self._free.put(filled.buffer)
        finally:
            self._free.put(None)
            reader.join()

    def _read_all(self) -> None:
        try:
            for found in self._ranges:
                for address in range(found.start, found.end, self._block):
                    buffer = self._free.get()
                    if buffer is None:
                        return
                    data = buffer[: found.end - address]
                    self._read(address, data)
                    self._full.put(_Filled(Block(address, data), buffer))
            self._full.put(None)
        except BaseException as error:  # raised again where the blocks are used
            self._full.put(error)

    def _read(self, address: int, data: memoryview) -> None:
        start = time.monotonic()
        for page in read_block(self._source, address, data, self._page_size):
            last = self.unreadable[-1] if self.unreadable else Range(0, 0)
            if last.end == page.start and last.size:
                self.unreadable[-1] = Range(last.start, last.size + page.size)
            else:
                self.unreadable.append(page)
        self.seconds += time.monotonic() - start


class _Filled(NamedTuple):
    block: Block
    buffer: memoryview


class Digest:
    """Passes bytes on and takes their SHA-256, both at the same time."""

    def __init__(self, stream: Stream) -> None:
        self.size = 0
        """Bytes that were passed on."""
        self.writing_seconds = 0.0
        self.hashing_seconds = 0.0
        self._stream = stream
        self._hash = hashlib.sha256()
        self._hashing = Beside("hash")

    def write(self, data: Union[bytes, memoryview], /) -> None:
        """Take all of ``data``; raises what the stream behind raises."""
        before = self._hash.copy()
        self._hashing.start(lambda: self._update(data))
        start = time.monotonic()
        try:
            self._stream.write(data)
        except BaseException:
            self._hashing.wait()
            self._hash = before
            raise
        self.writing_seconds += time.monotonic() - start
        self._hashing.wait()
        self.size += len(data)

    def close(self) -> str:
        """End the thread and give the digest, in hex, of the first ``size`` bytes."""
        self._hashing.close()
        return self._hash.hexdigest()

    def _update(self, data: Union[bytes, memoryview]) -> None:
        start = time.monotonic()
        self._hash.update(data)
        self.hashing_seconds += time.monotonic() - start
