"""The part that all writers of plain formats share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memdump.image.base import Image
    from memdump.machine.output import Output
    from memdump.machine.source import Range

Progress = Callable[[int], None]
"""Is told how many bytes of memory are written."""


def unwatched(_done: int) -> None:
    """Show no progress."""


def copy_memory(image: Image, out: Output, before: Callable[[Range], None], progress: Progress) -> None:
    """Write all memory in ascending order, with a call of ``before`` in front of each range.

    Memory that turns out to be unreadable is left as zeros, so that what follows it stays in its place; the
    image notes it in `Image.defects`.
    """
    done = 0
    chunks = image.chunks()
    address, data = next(chunks, (0, None))
    for found in image.ranges:
        before(found)
        reached = found.start
        while data is not None and address < found.end:
            out.skip(address - reached)
            done += out.write(data)
            progress(done)
            reached = address + len(data)
            address, data = next(chunks, (0, None))
        out.skip(found.end - reached)
