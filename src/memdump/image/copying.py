"""The part that all writers of plain formats share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from memdump.image.base import Image
    from memdump.machine.output import Output
    from memdump.machine.source import Range


def copy_memory(image: Image, out: Output, before: Callable[[Range], None]) -> None:
    """Write all memory in ascending order, with a call of ``before`` in front of each range.

    Memory that turns out to be unreadable is left as zeros, so that what follows it stays in its place; the
    image notes it in `Image.defects`.
    """
    chunks = image.chunks()
    address, data = next(chunks, (0, None))
    for found in image.ranges:
        before(found)
        reached = found.start
        while data is not None and address < found.end:
            out.skip(address - reached)
            reached = address + out.write(data)
            address, data = next(chunks, (0, None))
        out.skip(found.end - reached)
