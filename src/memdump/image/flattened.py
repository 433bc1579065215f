"""makedumpfile's flattened form (``-F``): a dump in pieces, each with the offset at which it belongs.

Behind a header of 4096 bytes come pieces of offset and size (big endian, eight bytes each) and data, until an
offset of -1; a later piece replaces what an earlier one said (makedumpfile, ``IMPLEMENTATION``).  Nothing is
put together on disk: an index of the pieces makes the file readable as the dump in it.
"""

from __future__ import annotations

import bisect
import struct
from typing import TYPE_CHECKING

from memdump.image.content import unpack
from memdump.image.segments import Segment, disjoint

if TYPE_CHECKING:
    from memdump.image.content import Content

SIGNATURE = b"makedumpfile\0\0\0\0"
HEADER_SIZE = 4096
PIECE = struct.Struct(">qq")
END = -1


class Flattened:
    """A flattened file, sliced as the file that it stands for."""

    def __init__(self, content: Content, defects: list[str]) -> None:
        self._content = content
        self._pieces = disjoint(_pieces(content, defects)[::-1])
        self._starts = [found.start for found in self._pieces]
        self._length = self._pieces[-1].end if self._pieces else 0

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: slice, /) -> bytes:
        start, stop, _ = where.indices(self._length)
        parts = []
        index = max(bisect.bisect_right(self._starts, start) - 1, 0)
        while start < stop:
            found = self._pieces[index]
            if start < found.start:  # bytes that were never written
                parts.append(bytes(min(stop, found.start) - start))
            elif start < found.end:
                begin = found.offset + start - found.start
                parts.append(self._content[begin : begin + min(stop, found.end) - start])
                index += 1
            else:
                index += 1
                continue
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Unmap and close the file."""
        self._content.close()


def _pieces(content: Content, defects: list[str]) -> list[Segment]:
    pieces = []
    at = HEADER_SIZE
    # Writers leave small gaps only, so that an offset far behind what the file holds is nonsense.
    farthest = 2 * len(content) + (16 << 20)
    while True:
        fields = unpack(content, PIECE, at)
        if fields is None:
            defects.append("truncated: the flattened file has no end mark")
            break
        offset, size = fields
        if offset == END:
            break
        at += PIECE.size
        if offset < 0 or size <= 0 or offset + size > farthest:
            defects.append(f"no sense in the piece at offset {at - PIECE.size:#x} of the flattened file")
            break
        held = min(size, len(content) - at)
        pieces.append(Segment(offset, held, at))
        at += size
    return pieces
