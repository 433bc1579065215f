"""Compressed kdump, as makedumpfile and QEMU write it.

A header, a sub header, two bitmaps (the pages that exist, the pages that are in the file), a descriptor for
each page in the file, and the pages, each compressed for itself.  Layouts: makedumpfile, ``IMPLEMENTATION``
and ``diskdump_mod.h``.  A page that was left out is no part of any range.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import NotADump
from memdump.image.base import Image, MissingMemory
from memdump.image.bitmap import runs
from memdump.image.content import Damaged, unpack
from memdump.image.elf import LARGEST_VMCOREINFO, find_vmcoreinfo
from memdump.image.pages import decompress
from memdump.machine.source import Range

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memdump.image.content import Content

SIGNATURE = b"KDUMP   "
DESCRIPTOR = "QIIQ"
"""Offset and size of the data, how it is compressed, flags of the page."""
INCOMPLETE = 8
SPLIT_SINCE, VMCOREINFO_SINCE, NOTE_SINCE, WIDE_SINCE = 2, 3, 4, 6
"""Header versions that brought fields of the sub header."""
PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)
CACHE = 32 << 20
ADDRESS_SPACE = 1 << 64


class Layout(NamedTuple):
    """Where the fields are on machines with longs of one size."""

    header: str
    sub_header: str


# The C structures with their padding; utsname is 6 * 65 bytes and timeval two longs.
LAYOUTS = (
    Layout("8si390s6x16xIiIIIIIII", "QiiQQQQQQQQQQQ"),
    Layout("8si390s2x8xIiIIIIIII", "IiiIIQIQIQIQQQ"),
)


class Header(NamedTuple):
    """What the two headers say, in bytes and page numbers."""

    order: str
    version: int
    machine: str
    status: int
    block: int
    """Size of a page."""
    bitmap: int
    """Offset of the bitmap of the pages that are in the file."""
    descriptors: int
    pages: int
    """Page numbers go up to here."""
    first: int
    end: int
    """This file has only the pages of these numbers, when a dump was split into several files."""
    vmcoreinfo: tuple[int, int]
    note: tuple[int, int]


class Run(NamedTuple):
    """Pages without a gap; their descriptors stand one behind the other, too."""

    page: int
    pages: int
    descriptor: int
    """Number of the first one's descriptor."""


class KdumpImage(Image):
    """A compressed kdump; a page is decompressed when it is read."""

    format = "kdump"

    def __init__(self, path: Path, content: Content, defects: list[str]) -> None:
        self.path = path
        self.defects = defects
        self._content = content
        self._header = header = parse_header(path, content)
        self._form = struct.Struct(header.order + DESCRIPTOR)
        self._runs = list(self._held(_runs(content, header)))
        if not self._runs:
            raise NotADump(f"{path}: is a kdump file that holds no memory; take it again")
        self.ranges = tuple(
            Range(found.page * header.block, found.pages * header.block) for found in self._runs
        )
        self.architecture = header.machine or None
        self.vmcoreinfo = _vmcoreinfo(content, header)
        self._page = functools.lru_cache(CACHE // header.block)(self._load)
        if header.status & INCOMPLETE:
            defects.append("incomplete: makedumpfile ran out of disk while it wrote this")
        if (header.first, header.end) != (0, header.pages):
            low, high = header.first * header.block, header.end * header.block
            defects.append(f"one file of a split dump: only physical {low:#x} to {high:#x} is in it")

    def _held(self, found: Iterator[Run]) -> Iterator[Run]:
        """Keep of the runs what the file has descriptors and data for."""
        length = len(self._content)
        most = max(0, length - self._header.descriptors) // self._form.size
        told = held = 0
        kept = []
        for run in found:
            told += run.pages
            count = max(0, min(run.pages, most - run.descriptor))
            held += count
            if count:
                kept.append(run._replace(pages=count))
        torn = held < told or self._ends_early(held)
        if not torn:
            yield from kept
            return
        whole = 0
        for run in kept:
            for part in self._whole(run):
                whole += part.pages
                yield part
        self.defects.append(f"truncated: {told - whole} of {told} pages lie behind the end of the file")

    def _ends_early(self, count: int) -> bool:
        """Tell whether data of the last pages is missing: writers store the pages in ascending order."""
        few = 1024
        return any(
            offset + size > len(self._content)
            for offset, size, _, _ in self._described(max(0, count - few), min(count, few))
        )

    def _described(self, first: int, count: int) -> Iterator[tuple[int, int, int, int]]:
        begin = self._header.descriptors + first * self._form.size
        data = self._content[begin : begin + count * self._form.size]
        yield from self._form.iter_unpack(data)

    def _whole(self, run: Run) -> Iterator[Run]:
        """Give the parts of a run whose pages are all in the file."""
        begin = 0
        for number, (offset, size, _, _) in enumerate(self._described(run.descriptor, run.pages)):
            if offset + size > len(self._content) or not offset:
                if number > begin:
                    yield Run(run.page + begin, number - begin, run.descriptor + begin)
                begin = number + 1
        if run.pages > begin:
            yield Run(run.page + begin, run.pages - begin, run.descriptor + begin)

    def _load(self, descriptor: int) -> bytes | None:
        """Decompress the page of a descriptor; nothing where it is damaged."""
        block = self._header.block
        fields = unpack(self._content, self._form, self._header.descriptors + descriptor * self._form.size)
        if fields is None:
            return None
        offset, size, flags, _ = fields
        if not offset or not 0 < size <= block:
            return None
        try:
            return decompress(self._content[offset : offset + size], flags, block)
        except Damaged:
            return None

    def _read_within(self, index: int, offset: int, size: int) -> bytes:
        block = self._header.block
        run = self._runs[index]
        number, skip = divmod(offset, block)
        # A long read goes through memory once; to keep its pages would push out those that are read again.
        load = self._page if size <= CACHE // 32 else self._load
        parts = []
        while size > 0:
            page = load(run.descriptor + number)
            if page is None:
                raise MissingMemory((run.page + number) * block + skip, min(size, block - skip))
            part = page[skip : skip + size] if skip or size < block else page
            parts.append(part)
            size -= len(part)
            number, skip = number + 1, 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Unmap and close the file."""
        self._page.cache_clear()
        self._content.close()


def _runs(content: Content, header: Header) -> Iterator[Run]:
    descriptor = 0
    for page, count in runs(content, header.bitmap, header.pages):
        low, high = max(page, header.first), min(page + count, header.end)
        if low < high:
            yield Run(low, high - low, descriptor)
            descriptor += high - low


def _vmcoreinfo(content: Content, header: Header) -> bytes | None:
    offset, size = header.vmcoreinfo
    if offset and 0 < size <= LARGEST_VMCOREINFO and (text := content[offset : offset + size]):
        return text.rstrip(b"\0")
    offset, size = header.note
    return find_vmcoreinfo(content, offset, size, header.order) if offset else None


def parse_header(path: Path, content: Content) -> Header:
    """Read both headers, in the byte order and for the size of longs that give sense.

    Raises `NotADump` where none does.
    """
    for order in "<>":
        for layout in LAYOUTS:
            header = _parse(content, order, layout)
            if header is not None:
                return header
    raise NotADump(f"{path}: begins like a kdump file, but its header is truncated or damaged; take it again")


def _parse(content: Content, order: str, layout: Layout) -> Header | None:
    main = unpack(content, struct.Struct(order + layout.header), 0)
    if main is None:
        return None
    _, version, names, status, block, sub_blocks, bitmap_blocks, pages, *_ = main
    if (
        not 0 <= version < 64
        or not 4096 <= block <= 65536
        or block & (block - 1)
        or not 0 < sub_blocks < 1024
    ):
        return None
    sub = unpack(content, struct.Struct(order + layout.sub_header), block)
    bitmap = (1 + sub_blocks) * block
    descriptors = bitmap + bitmap_blocks * block
    if sub is None or not bitmap_blocks or descriptors > len(content):
        return None
    _, _, split, first, end, info_at, info_size, note_at, note_size, _, _, first_64, end_64, pages_64 = sub
    if version >= WIDE_SINCE:
        pages, first, end = pages_64 or pages, first_64, end_64
    if version < SPLIT_SINCE or not split:
        first, end = 0, pages
    # Each bitmap has half of the blocks, which bounds what the header can claim.
    half = bitmap_blocks * block // 2
    pages = min(pages, half * 8, ADDRESS_SPACE // block)
    machine = names[4 * 65 : 5 * 65].split(b"\0")[0].decode("ascii", "replace")
    return Header(
        order,
        version,
        machine if machine.isprintable() else "",
        status,
        block,
        bitmap + half,
        descriptors,
        pages,
        max(first, 0),
        min(end, pages),
        (info_at, info_size) if version >= VMCOREINFO_SINCE else (0, 0),
        (note_at, note_size) if version >= NOTE_SINCE else (0, 0),
    )
