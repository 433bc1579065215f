"""What is in a Zstandard file, read in place: only the frames that a slice needs are decompressed.

Frames that are too large for that, as the ``zstd`` program makes one of the whole file, are decompressed into
memory; see `memdump.image.zstd_unpacked`.
"""

from __future__ import annotations

import os
import threading
from array import array
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import zstandard

from memdump.errors import NotADump
from memdump.image.content import Damaged
from memdump.image.zstd_index import UNKNOWN, read_index
from memdump.image.zstd_layout import CHECKSUM, SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memdump.image.content import Content
    from memdump.image.zstd_index import Index

LARGEST_FRAME = 16 << 20
"""A larger frame takes too long for a read of a few bytes."""
CACHE = 64 << 20
"""Bytes of frames that are kept: to touch fresh memory takes about as long as to decompress into it."""
LONG = 1 << 20
"""A slice of this size is read once; to keep its frames would push out those that are read again."""
AT_ONCE = 512 << 10
"""Bytes that a thread decompresses in one go."""
_USUAL = 64 << 10
"""Bytes of a frame as memdump writes them (`memdump.image.zstd_seekable.FRAME`)."""
NOWHERE = (0, -1, b"")


class SeekableContent:
    """The frames of a file, one behind the other, sliced as if they were decompressed."""

    def __init__(
        self, content: Content, defects: list[str] | None = None, index: Index | None = None
    ) -> None:
        """Find the frames; ``defects`` takes what is wrong with the file."""
        self.defects = [] if defects is None else defects
        self._content = content
        self._index = index or read_index(content, self.defects)
        self._starts = array("Q", accumulate(self._index.sizes, initial=0))
        self._length = self._starts[-1]
        self._frames: dict[int, bytes] = {}
        self._room = CACHE
        self._last = NOWHERE
        self._recent: dict[int, tuple[int, int, bytes]] = {}
        """Frames that are kept, by where they begin: one of the usual size is found without a search."""
        self._of_thread = threading.local()
        self._workers: ThreadPoolExecutor | None = None

    @property
    def metadata(self) -> bytes:
        """What the writer put into the frame that readers skip."""
        return self._index.metadata

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: slice, /) -> bytes:
        # The kernel engine reads a few bytes at a time, mostly from frames it has read from before.
        start, stop = where.start, where.stop
        if start is not None and stop is not None:
            begin, end, data = self._recent.get(start // _USUAL, self._last)
            if begin <= start <= stop <= end:
                return data[start - begin : stop - begin]
        start, stop, _ = where.indices(self._length)
        if start >= stop:
            return b""
        first = bisect_right(self._starts, start) - 1
        begin, end = self._starts[first], self._starts[first + 1]
        if stop <= end:
            data = self._frames.get(first) or self._load(first)
            self._last = self._recent[begin // _USUAL] = (begin, end, data)
            return data[start - begin : stop - begin]
        numbers = range(first, bisect_right(self._starts, stop - 1))
        if stop - start >= LONG:
            whole = b"".join(self._long(numbers))
        else:
            whole = b"".join([self._frames.get(number) or self._load(number) for number in numbers])
        return whole[start - begin : stop - begin]

    def _load(self, number: int) -> bytes:
        """Decompress a frame and keep it; the oldest make room for it."""
        data = self._unpack(number, self._packed(number))
        self._frames[number] = data
        self._room -= len(data)
        while self._room < 0:
            oldest = next(iter(self._frames))
            self._room += len(self._frames.pop(oldest))
            self._recent.pop(self._starts[oldest] // _USUAL, None)
        return data

    def _long(self, numbers: range) -> Iterator[bytes]:
        """Give many frames, decompressed on all cores, without keeping them."""
        if self._workers is None:
            self._workers = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "unzstd")
        size = max(1, AT_ONCE // self._index.sizes[numbers[0]])
        runs = [numbers[at : at + size] for at in range(0, len(numbers), size)]
        # What is below is read in this thread; only what zstd does can go on beside it.
        results = [self._workers.submit(self._unpack_all, run, list(map(self._packed, run))) for run in runs]
        for result in results:
            yield from result.result()

    def _unpack_all(self, numbers: range, packed: list[bytes]) -> list[bytes]:
        return list(map(self._unpack, numbers, packed))

    def _packed(self, number: int) -> bytes:
        offset = self._index.offsets[number]
        try:
            return self._content[offset : offset + self._index.packed[number]]
        except Damaged:
            raise self._damaged(number) from None

    def _unpack(self, number: int, packed: bytes) -> bytes:
        """Decompress a frame; raises `Damaged` unless all of it agrees with what the index says."""
        size = self._index.sizes[number]
        checksums = self._index.checksums
        try:
            # Before anything is decompressed: the library takes as much memory as a frame says.
            told = zstandard.get_frame_parameters(packed) if packed.startswith(SIGNATURE) else None
            if told is None or told.content_size not in (size, UNKNOWN):
                raise self._damaged(number)
            if (
                checksums
                and told.has_checksum
                and packed[-CHECKSUM:] != checksums[number].to_bytes(4, "little")
            ):
                raise self._damaged(number)
            data = self._decompressor().decompress(packed, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError:
            raise self._damaged(number) from None
        if len(data) != size:
            raise self._damaged(number)
        return data

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        found: zstandard.ZstdDecompressor | None = getattr(self._of_thread, "decompressor", None)
        if found is None:
            found = self._of_thread.decompressor = zstandard.ZstdDecompressor()
        return found

    def _damaged(self, number: int) -> Damaged:
        return Damaged(self._starts[number], self._index.sizes[number])

    def close(self) -> None:
        """Forget what was decompressed and close the file."""
        self._last = NOWHERE
        self._recent.clear()
        self._frames.clear()
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)
            self._workers = None
        self._content.close()


class Unpacked(NamedTuple):
    """What is in a Zstandard file."""

    content: Content
    metadata: bytes
    """What the writer put into a frame that readers skip."""
    detail: str
    """How it is packed, in words."""


def open_zstd(path: Path, content: Content, defects: list[str]) -> Unpacked:
    """Make what is in a Zstandard file readable; ``defects`` takes what is wrong with it.

    Raises `NotADump` where nothing is in it, or where it can only be had with more memory than there is.
    """
    index = read_index(content, defects)
    if not index.offsets:
        why = defects[-1] if defects else "nothing is in it"
        raise NotADump(f"{path}: is a zstd file that cannot be read: {why}")
    frames = "1 frame" if len(index.offsets) == 1 else f"{len(index.offsets)} frames"
    if max(index.sizes) <= LARGEST_FRAME:
        how = "seekable" if index.table else "no seek table"
        return Unpacked(SeekableContent(content, defects, index), index.metadata, f"{how}, {frames}")
    from memdump.image.zstd_unpacked import unpack_all

    whole = unpack_all(path, content, index, defects)
    return Unpacked(whole, index.metadata, f"{frames}, all unpacked into memory")
