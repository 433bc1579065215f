"""A Zstandard file whose frames are too large to be read in place, decompressed once into memory.

It is anonymous memory, so that nothing of it comes to stand on a disk, and pages of zeros take no room in it.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

from memdump.errors import NotADump
from memdump.image.content import Damaged
from memdump.image.zstd_index import BLOCK, LARGEST_HEADER, UNKNOWN, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.image.content import Content
    from memdump.image.zstd_index import Index

MAP_NORESERVE = 0x4000
"""The module ``mmap`` names it since Python 3.13; Linux gives it this value on all that memdump runs on."""
PAGE = mmap.PAGESIZE
ZEROS, ZERO_PAGE = bytes(BLOCK), bytes(PAGE)
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
        start, why = end, None
        try:
            for part in _decompressed(content, offset, offset + packed):
                room.put(end, part)
                end += len(part)
        except (zstandard.ZstdError, Damaged) as error:
            why = error
        if why is None and size in (UNKNOWN, end - start):
            continue
        if size == UNKNOWN:
            defects.append(f"damaged: the frame at offset {offset:#x}: {why}; what follows is left out")
            break
        defects.append(f"damaged: the frame at offset {offset:#x}: {why or 'it ends early'}")
        if end < start + size:
            holes.append((end, start + size))
            end = start + size
    content.close()
    if not end or holes == [(0, end)]:
        raise NotADump(f"{path}: is a zstd file that cannot be read: {defects[-1]}")
    whole = room.end(end)
    return _Holed(whole, holes) if holes else whole


class _Room:
    """Memory that is taken page by page, as far as there is any."""

    def __init__(self, path: Path, most: int) -> None:
        self._path = path
        self._taken = CHECK_EACH
        try:
            self._map = mmap.mmap(-1, max(most, PAGE), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        except (OSError, OverflowError):
            raise self._refused() from None

    def put(self, at: int, data: bytes) -> None:
        """Put bytes into their place; raises `NotADump` where there is no more memory."""
        if data == ZEROS:
            return
        for begin in range(0, len(data), PAGE):
            page = data[begin : begin + PAGE]
            if page != ZERO_PAGE:
                self._map[at + begin : at + begin + len(page)] = page
                self._taken += PAGE
        if self._taken >= CHECK_EACH:
            self._taken = 0
            if _available() < RESERVE:
                raise self._refused()

    def end(self, size: int) -> mmap.mmap:
        """Give the memory that was filled, up to ``size``."""
        self._map.resize(size)
        return self._map

    def _refused(self) -> NotADump:
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


def _decompressed(content: Content, start: int, end: int) -> Iterator[bytes]:
    """Yield what a frame gives, block by block: what is fed at once may come out 32,000 times as large."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW).decompressobj()
    at = start + zstandard.frame_header_size(content[start : start + LARGEST_HEADER])
    for block in blocks(content, at):
        yield decompressor.decompress(content[start : block.end])
        start = block.end
    if start < end:
        decompressor.decompress(content[start:end])  # the checksum


def _available() -> int:
    """Bytes of memory that can be had without swapping (kernel, ``Documentation/filesystems/proc.rst``)."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", MEMINFO.read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else RESERVE
