"""Writes the Zstandard seekable format: independent frames, and a table at the end that says where each is.

Whatever reads zstd reads it, since the table stands in a frame that such readers skip.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from array import array
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

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
from memdump.machine.buffers import page_aligned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memdump.machine.pipeline import Stream

LEVEL = 1
FRAME = 64 << 10
"""Bytes in a frame: the least that a read decompresses; with larger ones a file is hardly smaller."""
LARGEST_FRAME = 2 << 20
GROW = 1 << 17
"""After so many frames they become twice as large, so that the table of a terabyte takes a few megabytes."""

_AT_ONCE = 512 << 10
"""Bytes that a thread compresses in one go."""
_IN_FLIGHT = 8 << 20
"""Bytes of memory that wait to be compressed; with them the packed ones and the compressors' own memory."""
_MOST_THREADS = 8
"""More are faster than any disk, and each takes memory."""
_PASSED_ON = 1 << 20
"""Packed bytes that are passed on together."""


class _Packed(NamedTuple):
    frames: list[tuple[bytes, int]]
    """Each with the bytes that it stands for."""
    seconds: float


class SeekableWriter:
    """Compresses what is written on all cores and passes it on, in order, to a stream.

    All calls to the stream come from the thread that calls `write` and `close`.
    """

    def __init__(
        self, stream: Stream, level: int = LEVEL, frame: int = FRAME, threads: int | None = None
    ) -> None:
        self._stream = stream
        self._level = level
        self._threads = threads or min(_cores(), _MOST_THREADS)
        self._busy = 0.0
        self._workers = ThreadPoolExecutor(self._threads, "zstd")
        self._of_thread = threading.local()
        self._pending: deque[tuple[memoryview, Future[_Packed]]] = deque()
        self._packed = bytearray()
        self._table = array("I")
        self._failure: BaseException | None = None
        self._set_frame(frame)

    def _set_frame(self, size: int) -> None:
        self._frame = size
        zeros = bytearray(size)
        self._blank = zeros, self._compressor().compress(zeros)
        self._batch = max(_AT_ONCE // size, 1) * size
        self._free: list[memoryview] = []
        self._buffer = page_aligned(self._batch)
        self._filled = 0
        self._left = GROW

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take all of ``data``.

        What the stream behind raises is the end, and every later call raises it again.
        """
        self._check()
        view = memoryview(data).cast("B")
        while view:
            part = view[: self._batch - self._filled]
            end = self._filled + len(part)
            self._buffer[self._filled : end] = part
            self._filled = end
            view = view[len(part) :]
            if end == self._batch:
                self._submit()

    def close(self, metadata: Callable[[], Iterable[bytes]] | None = None) -> None:
        """Pass on all that is left, then ``metadata``, where there is any, and the table.

        It is called twice, since its size stands in front of it, and its pieces may be many.
        Raises as `write` does.
        """
        self._check()
        if self._filled:
            self._buffer = self._buffer[: self._filled]
            self._submit()
        self._pass_on(0)
        self._workers.shutdown()
        if metadata is not None:
            self._put(metadata)
        table = self._table
        if sys.byteorder == "big":
            table = table[:]
            table.byteswap()
        size = len(table) * table.itemsize
        self._packed += SKIPPABLE.pack(TABLE_MAGIC, size + FOOTER.size)
        self._flush()
        self._stream.write(memoryview(table).cast("B"))
        self._stream.write(FOOTER.pack(len(self._table) // 3, WITH_CHECKSUMS, FOOTER_MAGIC))

    def _put(self, metadata: Callable[[], Iterable[bytes]]) -> None:
        size = len(METADATA_TAG) + sum(map(len, metadata()))
        self._table.extend((SKIPPABLE.size + size, 0, CHECKSUM_OF_NOTHING))
        self._packed += SKIPPABLE.pack(METADATA_MAGIC, size) + METADATA_TAG
        for piece in metadata():
            self._packed += piece
            if len(self._packed) >= _PASSED_ON:
                self._flush()

    @property
    def seconds(self) -> float:
        """How long it was compressing so far, as if all of its threads had done so at the same time."""
        return self._busy / self._threads

    def unpacked(self, size: int) -> int:
        """Give how many bytes of the stream are in the whole frames of the first ``size`` packed bytes."""
        found = 0
        for packed, unpacked in zip(self._table[::3], self._table[1::3], strict=True):
            size -= packed
            if size < 0:
                break
            found += unpacked
        return found

    def _submit(self) -> None:
        """Have the buffer compressed, and go on with a free one."""
        result = self._workers.submit(self._compress, self._buffer, self._frame)
        self._pending.append((self._buffer, result))
        self._left -= self._batch // self._frame
        if self._left <= 0 and self._frame < LARGEST_FRAME:
            self._set_frame(2 * self._frame)
        else:
            self._buffer = self._free.pop() if self._free else page_aligned(self._batch)
            self._filled = 0
        self._pass_on(_IN_FLIGHT // self._batch)

    def _pass_on(self, most: int) -> None:
        """Take what is packed off the queue while it is done, or more than ``most`` wait."""
        try:
            while self._pending and (len(self._pending) > most or self._pending[0][1].done()):
                buffer, result = self._pending.popleft()
                frames, seconds = result.result()
                self._busy += seconds
                for packed, size in frames:
                    # A frame ends with the checksum that the table wants, too.
                    self._append(packed, size, int.from_bytes(packed[-CHECKSUM:], "little"))
                if len(buffer) == self._batch:
                    self._free.append(buffer)
                if len(self._packed) >= _PASSED_ON:
                    self._flush()
        except BaseException as error:
            # What waits is cancelled, and whatever followed would stand behind a gap.
            self._failure = error
            self._workers.shutdown(wait=False, cancel_futures=True)
            raise

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _append(self, packed: bytes, size: int, checksum: int) -> None:
        self._table.extend((len(packed), size, checksum))
        self._packed += packed

    def _flush(self) -> None:
        self._stream.write(memoryview(self._packed))
        self._packed.clear()

    def _compress(self, data: memoryview, frame: int) -> _Packed:
        """Make frames of a batch."""
        started = time.monotonic()
        zeros, packed_zeros = self._blank
        parts = [data[start : start + frame] for start in range(0, len(data), frame)]
        # Arrays of bytes are compared as fast as memory can be read, and mostly differ at once.
        filled = [number for number, part in enumerate(parts) if zeros != part]
        packed = [packed_zeros] * len(parts)
        if filled:
            # All in one call: after each, a thread has to wait for those that run Python.
            made = self._compressor().multi_compress_to_buffer([parts[number] for number in filled])
            for at, number in enumerate(filled):
                packed[number] = made[at].tobytes()
        frames = [(one, len(part)) for one, part in zip(packed, parts, strict=True)]
        return _Packed(frames, time.monotonic() - started)

    def _compressor(self) -> zstandard.ZstdCompressor:
        """Give the compressor of this thread."""
        found: zstandard.ZstdCompressor | None = getattr(self._of_thread, "compressor", None)
        if found is None:
            found = zstandard.ZstdCompressor(level=self._level, write_checksum=True)
            self._of_thread.compressor = found
        return found


def _cores() -> int:
    return len(os.sched_getaffinity(0))
