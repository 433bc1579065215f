"""Padded raw: the byte at offset N of the file is physical address N; what is not RAM is filled with zeros.

There is no header, so nothing but its size speaks for it: this is what a file is taken for when nothing else
fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.errors import UsageError
from memdump.image.copying import copy_memory, unwatched
from memdump.image.mapped import MappedImage
from memdump.image.segments import Segment

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.image.base import Image
    from memdump.image.content import Content
    from memdump.image.copying import Progress, Target
    from memdump.machine.source import Range

PAGE = 4096
SMALLEST = 1 << 20
"""A machine with less memory than this runs no Linux."""
LARGEST = 1 << 40
"""A raw file larger than this is written only if a fair part of it is memory."""


def may_be_raw(content: Content) -> bool:
    """Tell whether the size is that of a memory: a whole number of pages, and enough of them."""
    return len(content) >= SMALLEST and len(content) % PAGE == 0


class RawImage(MappedImage):
    """A padded raw image."""

    format = "raw"

    def __init__(self, path: Path, content: Content) -> None:
        super().__init__(path, content, [Segment(0, len(content), 0)], [])


def write_raw(image: Image, out: Target, progress: Progress = unwatched) -> None:
    """Write an image padded; the gaps are holes in the file and take no room on the disk.

    Raises `UsageError` where the file would be absurdly large because the addresses lie far apart.
    """
    whole = image.ranges[-1].end if image.ranges else 0
    if whole > LARGEST and whole > 16 * image.size:
        raise UsageError(
            f"{out.path}: {image.size} bytes of memory, padded, make a file of {whole} bytes; use --to lime"
        )

    def pad(found: Range) -> None:
        out.skip(found.start - out.position)

    copy_memory(image, out, pad, progress)
