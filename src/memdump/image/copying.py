"""The part that all writers of plain formats share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from memdump.image.base import Image
    from memdump.machine.pipeline import Stream
    from memdump.machine.source import Range

ZEROS = 1 << 20
"""Bytes that are written at once where there is no memory."""

Progress = Callable[[int], None]
"""Is told how many bytes of memory are written."""


def unwatched(_done: int) -> None:
    """Show no progress."""


class Target(Protocol):
    """What an image is written to, such as `memdump.machine.output.Output`."""

    path: str
    position: int
    """The bytes written and skipped so far."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all of ``data`` and give its size."""

    def skip(self, size: int) -> None:
        """Leave out ``size`` bytes, which are zeros when they are read."""


class StreamTarget:
    """A stream as a target: it has no holes, so that what is skipped is written as zeros."""

    def __init__(self, stream: Stream, path: str) -> None:
        self.path = path
        self.position = 0
        self._stream = stream

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all of ``data`` and give its size."""
        self._stream.write(data)
        self.position += len(data)
        return len(data)

    def skip(self, size: int) -> None:
        """Write ``size`` zeros."""
        zeros = memoryview(bytes(min(size, ZEROS)))
        while size:
            size -= self.write(zeros[:size])


def copy_memory(image: Image, out: Target, before: Callable[[Range], None], progress: Progress) -> None:
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
