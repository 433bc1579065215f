"""LiME: for each range a header, then its bytes; `memdump.machine.lime` has the layout.

Writers differ: AVML gives a header to every 16 MiB and leaves out those that are all zero, LiME itself one to
each range of RAM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.errors import NotADump
from memdump.image.content import unpack
from memdump.image.copying import copy_memory, unwatched
from memdump.image.mapped import MappedImage
from memdump.image.segments import Segment
from memdump.machine.lime import HEADER, MAGIC, VERSION, write_header

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.image.base import Image
    from memdump.image.content import Content
    from memdump.image.copying import Progress, Target
    from memdump.machine.source import Range

SIGNATURE = MAGIC.to_bytes(4, "little")


class LimeImage(MappedImage):
    """A LiME image; its ranges may come in any order."""

    format = "lime"

    def __init__(self, path: Path, content: Content) -> None:
        defects: list[str] = []
        segments = _segments(content, defects)
        if not segments:
            raise NotADump(
                f"{path}: begins like a LiME image but holds no memory: {defects[0]}; take it again"
            )
        super().__init__(path, content, segments, defects)
        if (lost := sum(found.size for found in segments) - self.size) > 0:
            defects.append(f"ranges overlap: {lost} bytes are given twice, the first copy is used")


def _segments(content: Content, defects: list[str]) -> list[Segment]:
    """Go from header to header; stop, with a line in ``defects``, where there is no more sense to be had."""
    segments = []
    offset, length = 0, len(content)
    while offset < length:
        fields = unpack(content, HEADER, offset)
        if fields is None:
            what = "truncated: the file ends inside" if offset + HEADER.size > length else "damaged:"
            defects.append(f"{what} the range header at offset {offset:#x}; what follows it is left out")
            break
        magic, version, start, last = fields
        if (magic, version) != (MAGIC, VERSION) or last < start:
            defects.append(f"no range header of LiME version 1 at offset {offset:#x}; the rest is left out")
            break
        offset += HEADER.size
        size = min(last - start + 1, length - offset)
        if size <= last - start:
            defects.append(
                f"truncated: the range at physical {start:#x} has {size} of {last - start + 1} bytes"
            )
        if size:
            segments.append(Segment(start, size, offset))
        offset += size
    return segments


def write_lime(image: Image, out: Target, progress: Progress = unwatched) -> None:
    """Write an image as LiME."""

    def head(found: Range) -> None:
        write_header(out, found)

    copy_memory(image, out, head, progress)
