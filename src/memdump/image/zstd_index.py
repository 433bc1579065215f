"""Which frames a Zstandard file has: by its seek table, or by a walk from frame to frame.

Nothing is decompressed for it; `memdump.image.zstd_layout` has the layouts.
"""

from __future__ import annotations

import sys
from array import array
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import zstandard

from memdump.image.content import unpack
from memdump.image.zstd_layout import (
    CHECKSUM,
    FIRST_SKIPPABLE,
    FOOTER,
    FOOTER_MAGIC,
    LAST_SKIPPABLE,
    METADATA_MAGIC,
    METADATA_TAG,
    RESERVED,
    SIGNATURE,
    SKIPPABLE,
    TABLE_MAGIC,
    WITH_CHECKSUMS,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.image.content import Content

UNKNOWN = (1 << 64) - 1
"""The size of a frame that does not say it."""

LARGEST_HEADER = 18
RLE, RESERVED_BLOCK = 1, 3
BLOCK = 128 << 10
"""No block gives more, and none takes less than four bytes of the file."""
MOST_GAIN = BLOCK // 4
LARGEST_LOST = 16 << 20
"""A torn frame that would give no more than this is left out, a larger one is read as far as it goes."""
LARGEST_METADATA = 128 << 20

SMALLEST_MEAN, MOST_ODD = 64, 256
"""A file of nothing but tiny frames is there to use up time and memory."""


class Index(NamedTuple):
    """The frames that give bytes, in the order of the file."""

    offsets: array[int]
    """Where each begins in the file."""
    packed: array[int]
    """How many bytes of the file each takes."""
    sizes: array[int]
    """How many bytes each gives, or `UNKNOWN`."""
    bounds: array[int]
    """How many bytes each gives at most."""
    checksums: array[int] | None
    """What the table says of their checksums."""
    metadata: bytes
    """What our own frame that readers skip holds."""
    table: bool
    """Whether the file has a seek table that fits it."""


def read_index(content: Content, defects: list[str]) -> Index:
    """Find the frames; what the file has no room for is left out, with a line in ``defects``."""
    return _read_table(content, defects) or _walk(content, defects)


def _read_table(content: Content, defects: list[str]) -> Index | None:
    """Read the table; nothing where there is none, or where it does not fit the file."""
    end = len(content)
    footer = unpack(content, FOOTER, max(end - FOOTER.size, 0))
    if footer is None or footer[2] != FOOTER_MAGIC:
        return None
    count, kind, _ = footer
    words = 3 if kind & WITH_CHECKSUMS else 2
    length = count * words * 4 + FOOTER.size
    start = end - length - SKIPPABLE.size
    if kind & RESERVED or start < 0 or unpack(content, SKIPPABLE, start) != (TABLE_MAGIC, length):
        defects.append("the seek table makes no sense; the frames were looked for one by one")
        return None
    table = array("I", content[start + SKIPPABLE.size : end - FOOTER.size])
    if sys.byteorder == "big":
        table.byteswap()
    packed, sizes = table[0::words], table[1::words]
    if sum(packed) != start or any(
        size // MOST_GAIN > held for size, held in zip(sizes, packed, strict=True)
    ):
        defects.append("the seek table does not fit the file; the frames were looked for one by one")
        return None
    offsets = array("Q", accumulate(packed, initial=0))
    checksums = table[2::3] if words == 3 else None
    metadata = _metadata(content, offsets[-2], start) if count else b""
    if 0 not in sizes:
        return Index(offsets[:-1], packed, sizes, sizes, checksums, metadata, table=True)
    kept = [number for number, size in enumerate(sizes) if size]
    sizes = array("I", (sizes[number] for number in kept))
    return Index(
        array("Q", (offsets[number] for number in kept)),
        array("I", (packed[number] for number in kept)),
        sizes,
        sizes,
        array("I", (checksums[number] for number in kept)) if checksums else None,
        metadata,
        table=True,
    )


def _metadata(content: Content, start: int, end: int) -> bytes:
    """Give what our skippable frame at a place holds; nothing where there is another frame."""
    begin = start + SKIPPABLE.size
    fields = unpack(content, SKIPPABLE, start)
    if fields != (METADATA_MAGIC, end - begin) or end - begin > LARGEST_METADATA:
        return b""
    tag, text = content[begin : begin + len(METADATA_TAG)], begin + len(METADATA_TAG)
    return content[text:end] if tag == METADATA_TAG else b""


def _walk(content: Content, defects: list[str]) -> Index:
    """Go from frame to frame, and to find the end of each from block to block."""
    index = Index(array("Q"), array("Q"), array("Q"), array("Q"), None, b"", table=False)
    offset = total = seen = 0
    metadata = b""
    while offset < len(content):
        skipped = unpack(content, SKIPPABLE, offset)
        if skipped and FIRST_SKIPPABLE <= skipped[0] <= LAST_SKIPPABLE:
            end = offset + SKIPPABLE.size + skipped[1]
            metadata = _metadata(content, offset, end) or metadata
            whole = end <= len(content)
        else:
            frame = _frame(content, offset)
            end, whole = frame.end, frame.whole
            if frame.bound and (whole or frame.bound > LARGEST_LOST or not index.offsets):
                index.offsets.append(offset)
                index.packed.append(end - offset)
                index.sizes.append(frame.size)
                index.bounds.append(frame.bound)
                total += frame.bound
        seen += 1
        if not whole or seen > MOST_ODD + total // SMALLEST_MEAN:
            what = "nothing but tiny frames up to" if whole else "truncated or damaged: no whole frame at"
            defects.append(f"{what} offset {offset:#x}; what follows is left out")
            break
        offset = end
    return index._replace(metadata=metadata)


class _Frame(NamedTuple):
    end: int
    size: int
    """What it gives, or `UNKNOWN`."""
    bound: int
    """What it gives at most."""
    whole: bool


def _frame(content: Content, offset: int) -> _Frame:
    """Look at the headers of a frame and of its blocks, as far as they make sense."""
    start = content[offset : offset + LARGEST_HEADER]
    try:
        if not start.startswith(SIGNATURE):
            raise zstandard.ZstdError
        header = zstandard.get_frame_parameters(start)
        end = offset + zstandard.frame_header_size(start)
    except zstandard.ZstdError:
        return _Frame(offset, 0, 0, whole=False)
    bound, last = 0, False
    for block in blocks(content, end):
        bound += block.bound
        end, last = block.end, block.last
    end += CHECKSUM * header.has_checksum
    if not last or end > len(content) or (header.content_size != UNKNOWN and header.content_size > bound):
        return _Frame(min(end, len(content)), UNKNOWN, bound, whole=False)
    return _Frame(end, header.content_size, min(header.content_size, bound), whole=True)


class Block(NamedTuple):
    """A part of a frame that is decompressed as one."""

    end: int
    """Where it ends in the file."""
    bound: int
    """What it gives at most."""
    last: bool


def blocks(content: Content, at: int) -> Iterator[Block]:
    """Give the blocks of a frame from the first one at an offset, as far as they are whole and make sense."""
    length, last = len(content), 0
    while not last:
        header = content[at : at + 3]
        fields = int.from_bytes(header, "little")
        last, kind, size = fields & 1, fields >> 1 & 3, fields >> 3
        at += 3 + (1 if kind == RLE else size)
        if len(header) < 3 or kind == RESERVED_BLOCK or size > BLOCK or at > length:
            return
        yield Block(at, BLOCK if kind > RLE else size, bool(last))
