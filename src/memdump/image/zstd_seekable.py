"""Writes the Zstandard seekable format: independent frames, and a table at the end that says where each is.

Whatever reads zstd reads it, since the table stands in a frame that such readers skip.
"""

from __future__ import annotations

import os
import sys
import threading
from array import array
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import zstandard

from memdump.image.zstd_layout import (
    CHECKSUM,
    CHECKSUM_OF_NOTHING,
    FOOTER,
    FOOTER_MAGIC,
    METADATA_MAGIC,
    METADATA_TAG,
    SKIPPABLE,
    TABLE_MAGIC,
    WITH_CHECKSUMS,
)

if TYPE_CHECKING:
    from memdump.machine.pipeline import Stream

LEVEL = 1
FRAME = 256 << 10
"""Bytes in a frame: a read decompresses at least so many, and larger ones pack hardly better."""
LARGEST_FRAME = 4 << 20
GROW = 1 << 18
"""After so many frames they become twice as large, so that the table of a terabyte takes a few megabytes."""

_IN_FLIGHT = 16 << 20
"""Bytes of memory that wait to be compressed; with them the packed ones and the compressors' own memory."""
_MOST_THREADS = 8
"""More are faster than any disk, and each takes memory."""
_AT_ONCE = 1 << 20
"""Packed bytes that are passed on together."""


class SeekableWriter:
    """Compresses what is written on all cores and passes it on, in order, to a stream.

    All calls to the stream come from the thread that calls `write` and `close`.
    """

    def __init__(
        self, stream: Stream, level: int = LEVEL, frame: int = FRAME, threads: int | None = None
    ) -> None:
        self._stream = stream
        self._level = level
        self._workers = ThreadPoolExecutor(threads or min(_cores(), _MOST_THREADS), "zstd")
        self._of_thread = threading.local()
        self._pending: deque[tuple[bytearray, int, Future[bytes]]] = deque()
        self._packed = bytearray()
        self._table = array("I")
        self._set_frame(frame)

    def _set_frame(self, size: int) -> None:
        self._frame = size
        self._zeros = bytearray(size)
        self._packed_zeros: Future[bytes] = Future()
        self._packed_zeros.set_result(self._compress(self._zeros))
        self._free: list[bytearray] = []
        self._buffer = bytearray(size)
        self._filled = 0
        self._left = GROW

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take all of ``data``; raises what the stream behind raises."""
        view = memoryview(data).cast("B")
        while view:
            part = view[: self._frame - self._filled]
            end = self._filled + len(part)
            self._buffer[self._filled : end] = part
            self._filled = end
            view = view[len(part) :]
            if end == self._frame:
                self._submit()

    def close(self, metadata: bytes = b"") -> None:
        """Pass on all that is left, then ``metadata``, where there is any, and the table.

        Raises what the stream behind raises.
        """
        if self._filled:
            del self._buffer[self._filled :]
            self._submit()
        self._pass_on(0)
        self._workers.shutdown()
        if metadata:
            packed = _skippable(METADATA_MAGIC, METADATA_TAG + metadata)
            self._append(packed, 0, CHECKSUM_OF_NOTHING)
        if sys.byteorder == "big":
            self._table.byteswap()
        footer = FOOTER.pack(len(self._table) // 3, WITH_CHECKSUMS, FOOTER_MAGIC)
        self._packed += _skippable(TABLE_MAGIC, self._table.tobytes() + footer)
        self._flush()

    def _submit(self) -> None:
        """Have the buffer compressed, and go on with a free one."""
        # Two arrays of bytes are compared as fast as memory can be read, and mostly differ at once.
        if self._buffer == self._zeros:
            self._pending.append((self._zeros, self._filled, self._packed_zeros))
        else:
            self._pending.append(
                (self._buffer, self._filled, self._workers.submit(self._compress, self._buffer))
            )
            self._buffer = self._free.pop() if self._free else bytearray(self._frame)
        self._filled = 0
        self._left -= 1
        if not self._left and self._frame < LARGEST_FRAME:
            self._set_frame(2 * self._frame)
        self._pass_on(_IN_FLIGHT // self._frame)

    def _pass_on(self, most: int) -> None:
        """Take packed frames off the queue while they are done, or more than ``most`` wait."""
        while self._pending and (len(self._pending) > most or self._pending[0][2].done()):
            buffer, size, result = self._pending.popleft()
            packed = result.result()
            # A frame ends with the checksum that the table wants, too.
            self._append(packed, size, int.from_bytes(packed[-CHECKSUM:], "little"))
            if len(buffer) == self._frame and buffer is not self._zeros:
                self._free.append(buffer)
            if len(self._packed) >= _AT_ONCE:
                self._flush()

    def _append(self, packed: bytes, size: int, checksum: int) -> None:
        self._table.extend((len(packed), size, checksum))
        self._packed += packed

    def _flush(self) -> None:
        try:
            self._stream.write(memoryview(self._packed))
        except BaseException:
            self._workers.shutdown(wait=False, cancel_futures=True)
            raise
        self._packed.clear()

    def _compress(self, data: bytearray) -> bytes:
        compressor = getattr(self._of_thread, "compressor", None)
        if compressor is None:
            compressor = zstandard.ZstdCompressor(level=self._level, write_checksum=True)
            self._of_thread.compressor = compressor
        return bytes(compressor.compress(data))


def _skippable(magic: int, content: bytes) -> bytes:
    return SKIPPABLE.pack(magic, len(content)) + content


def _cores() -> int:
    return len(os.sched_getaffinity(0))
