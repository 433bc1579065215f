"""What is in a Zstandard file, read in place: only the frames that a slice needs are decompressed.

Frames that are too large for that, as the ``zstd`` program makes one of the whole file, are decompressed into
memory; see `memdump.image.zstd_unpacked`.
"""

from __future__ import annotations

import os
import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import zstandard

from memdump.errors import NotADump
from memdump.image.content import Damaged
from memdump.image.zstd_index import UNKNOWN, read_index
from memdump.image.zstd_layout import CHECKSUM, SIGNATURE

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.image.content import Content
    from memdump.image.zstd_index import Index

LARGEST_FRAME = 16 << 20
"""A larger frame takes too long for a read of a few bytes."""
CACHE = 96 << 20
LONG = 1 << 20
"""A slice of this size is read once; to keep its frames would push out those that are read again."""
SMALL = 64
"""Packed bytes: a frame of so few is a pattern, mostly zeros, and many are equal."""
PATTERNS = 16


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
        self._frames: OrderedDict[int, bytes] = OrderedDict()
        self._room = CACHE
        self._patterns: dict[bytes, bytes] = {}
        self._of_thread = threading.local()
        self._workers: ThreadPoolExecutor | None = None
        self._last = (0, 0, b"")

    @property
    def metadata(self) -> bytes:
        """What the writer put into the frame that readers skip."""
        return self._index.metadata

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: slice, /) -> bytes:
        start, stop, _ = where.indices(self._length)
        # The kernel engine reads a few bytes at a time, mostly from the frame it read from before.
        begin, end, data = self._last
        if begin <= start <= stop <= end:
            return data[start - begin : stop - begin]
        if start >= stop:
            return b""
        first, last = bisect_right(self._starts, start) - 1, bisect_right(self._starts, stop - 1) - 1
        if first == last:
            data, begin = self._frame(first), self._starts[first]
            self._last = (begin, begin + len(data), data)
            return data[start - begin : stop - begin]
        frames = self._long(first, last) if stop - start >= LONG else map(self._frame, range(first, last + 1))
        whole = b"".join(frames)
        skip = start - self._starts[first]
        return whole if len(whole) == stop - start else whole[skip : skip + stop - start]

    def _frame(self, number: int) -> bytes:
        """A frame from the cache, or into it."""
        data = self._frames.get(number)
        if data is not None:
            self._frames.move_to_end(number)
            return data
        data = self._unpack(number, self._packed(number))
        self._frames[number] = data
        self._room -= len(data)
        while self._room < 0:
            self._room += len(self._frames.popitem(last=False)[1])
        return data

    def _long(self, first: int, last: int) -> list[bytes]:
        """Many frames at once, on all cores."""
        if self._workers is None:
            self._workers = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "unzstd")
        results = []
        for number in range(first, last + 1):
            data = self._frames.get(number)
            results.append(data or self._workers.submit(self._unpack, number, self._packed(number)))
        return [found if isinstance(found, bytes) else found.result() for found in results]

    def _packed(self, number: int) -> bytes:
        offset = self._index.offsets[number]
        try:
            return self._content[offset : offset + self._index.packed[number]]
        except Damaged:
            raise self._damaged(number) from None

    def _unpack(self, number: int, packed: bytes) -> bytes:
        """Decompress a frame; raises `Damaged` unless all of it agrees with what the index says."""
        pattern = self._patterns.get(packed) if len(packed) <= SMALL else None
        size = self._index.sizes[number]
        if pattern is not None and len(pattern) == size:
            return pattern
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
        if len(packed) <= SMALL and len(self._patterns) < PATTERNS:
            self._patterns[packed] = data
        return bytes(data)

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        found: zstandard.ZstdDecompressor | None = getattr(self._of_thread, "decompressor", None)
        if found is None:
            found = self._of_thread.decompressor = zstandard.ZstdDecompressor()
        return found

    def _damaged(self, number: int) -> Damaged:
        return Damaged(self._starts[number], self._index.sizes[number])

    def close(self) -> None:
        """Forget what was decompressed and close the file."""
        self._last = (0, 0, b"")
        self._frames.clear()
        self._patterns.clear()
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
    count = len(index.offsets)
    if max(index.sizes) <= LARGEST_FRAME:
        how = "seekable" if index.table else "no seek table"
        return Unpacked(SeekableContent(content, defects, index), index.metadata, f"{how}, {count} frames")
    from memdump.image.zstd_unpacked import unpack_all

    detail = "one frame" if count == 1 else f"{count} frames"
    whole = unpack_all(path, content, index, defects)
    return Unpacked(whole, index.metadata, f"{detail}, too large to be read in place: unpacked into memory")
