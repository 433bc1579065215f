"""A Zstandard file whose frames are too large to be read in place, decompressed once into memory.

It is anonymous memory, so that nothing of it comes to stand on a disk, and pages of zeros take no room in it.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import zstandard

from memdump.errors import NotADump
from memdump.image.content import Damaged
from memdump.image.zstd_index import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.image.content import Content
    from memdump.image.zstd_index import Index

MAP_NORESERVE = 0x4000
"""The module ``mmap`` names it since Python 3.13; Linux gives it this value on all that memdump runs on."""
STEP = 256 << 10
PAGE = mmap.PAGESIZE
CHECK_EACH = 64 << 20
"""After so many bytes of memory it is asked whether there is more."""
RESERVE = 512 << 20
"""So much memory is left to the rest of the machine."""
LARGEST_WINDOW = 1 << 27
"""As in the ``zstd`` program, unless it is told to take more."""
MEMINFO = Path("/proc/meminfo")


def unpack_all(path: Path, content: Content, index: Index, defects: list[str]) -> Content:
    """Decompress all frames and close the file.

    Where a frame is damaged the rest of it is a hole, or all that follows is lost if its size is unknown;
    ``defects`` says so.  Raises `NotADump` where the memory of this machine does not do.
    """
    room = _Room(path, sum(index.bounds))
    holes: list[tuple[int, int]] = []
    end = 0
    for offset, packed, size in zip(index.offsets, index.packed, index.sizes, strict=True):
        start = end
        try:
            for part in _decompressed(content, offset, offset + packed):
                room.put(end, part)
                end += len(part)
            why = "it ends early"
        except (zstandard.ZstdError, Damaged) as error:
            why = str(error)
            if size == UNKNOWN:
                defects.append(f"damaged: the frame at offset {offset:#x}: {why}; what follows is left out")
                break
        if size not in (UNKNOWN, end - start):
            holes.append((end, start + size))
            defects.append(
                f"damaged: {start + size - end} bytes of the frame at offset {offset:#x} are lost: {why}"
            )
            end = start + size
    content.close()
    whole = room.end(end)
    return _Holed(whole, holes) if holes else whole


class _Room:
    """Memory that is taken page by page, as far as there is any."""

    def __init__(self, path: Path, most: int) -> None:
        self._path = path
        self._zeros = bytearray(STEP)
        self._taken = CHECK_EACH
        try:
            self._map = mmap.mmap(-1, max(most, PAGE), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        except (OSError, OverflowError):
            raise self._refused() from None

    def put(self, at: int, data: bytearray) -> None:
        """Put bytes into their place; raises `NotADump` where there is no more memory."""
        if data == self._zeros:
            return
        for begin in range(0, len(data), PAGE):
            page = data[begin : begin + PAGE]
            if page.count(0) != len(page):
                self._map[at + begin : at + begin + len(page)] = bytes(page)
                self._taken += PAGE
        if self._taken >= CHECK_EACH:
            self._taken = 0
            if _available() < RESERVE:
                raise self._refused()

    def end(self, size: int) -> mmap.mmap:
        """Give the memory that was filled, up to ``size``."""
        if not size:
            raise NotADump(f"{self._path}: nothing is left of it that can be decompressed; take it again")
        self._map.resize(size)
        return self._map

    def _refused(self) -> NotADump:
        self._map.close()
        return NotADump(
            f"{self._path}: is one large zstd frame, which must be in memory as a whole, and there is not"
            " enough of it: unpack it with `zstd -d`; `memdump convert` makes it one that is read in place"
        )


class _Holed:
    """Memory of which parts are missing."""

    def __init__(self, whole: mmap.mmap, holes: list[tuple[int, int]]) -> None:
        self._whole = whole
        self._holes = holes

    def __len__(self) -> int:
        return len(self._whole)

    def __getitem__(self, where: slice, /) -> bytes:
        start, stop, _ = where.indices(len(self._whole))
        for begin, end in self._holes:
            if begin < stop and start < end:
                raise Damaged(begin, end - begin)
        return self._whole[start:stop]

    def close(self) -> None:
        """Give the memory back."""
        self._whole.close()


def _decompressed(content: Content, start: int, end: int) -> Iterator[bytearray]:
    """Yield what a frame gives, in steps; the buffer is used again for the next one."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
    buffer = bytearray(STEP)
    part = cast("IO[bytes]", _Part(content, start, end))
    with decompressor.stream_reader(part, read_size=STEP) as reader:
        while taken := reader.readinto(buffer):
            yield buffer if taken == STEP else buffer[:taken]


class _Part:
    """A part of a content as a file."""

    def __init__(self, content: Content, start: int, end: int) -> None:
        self._content = content
        self._at = start
        self._end = end

    def read(self, size: int = -1, /) -> bytes:
        """Give the next ``size`` bytes, or those that are left."""
        data = self._content[self._at : min(self._at + size, self._end)]
        self._at += len(data)
        return data


def _available() -> int:
    """Bytes of memory that can be had without swapping (kernel, ``Documentation/filesystems/proc.rst``)."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", MEMINFO.read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else RESERVE
