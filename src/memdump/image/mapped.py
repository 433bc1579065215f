"""Images whose memory stands in the file as it is: they are mapped, never copied."""

from __future__ import annotations

import contextlib
import functools
import mmap
from typing import TYPE_CHECKING

from memdump.image.base import Image, MissingMemory
from memdump.image.content import Damaged
from memdump.image.segments import disjoint
from memdump.machine.source import Range

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.image.content import Content
    from memdump.image.segments import Segment

NOWHERE = (0, 0, 0)


class MappedImage(Image):
    """An image made of segments of the file; a read is one slice of the map."""

    def __init__(self, path: Path, content: Content, segments: list[Segment], defects: list[str]) -> None:
        """Take the segments as the file gives them; where two overlap, the earlier in the list is kept."""
        self.path = path
        self.defects = defects
        self._content = content
        self._segments = disjoint(segments)
        self.ranges = tuple(Range(found.start, found.size) for found in self._segments)
        self._last = NOWHERE

    def read(self, address: int, size: int) -> bytes:
        """Read ``size`` bytes at physical ``address``; raises `MissingMemory` unless all of it is there."""
        # The kernel engine reads a few bytes at a time, mostly from the range it read from before.
        start, end, shift = self._last
        if start <= address and address + size <= end:
            try:
                return self._content[address + shift : address + shift + size]
            except Damaged as error:
                raise _missing(error, address + shift, size, shift) from None
        index = self._range_at(address)
        if index is not None:
            found = self._segments[index]
            self._last = (found.start, found.end, found.offset - found.start)
        return super().read(address, size)

    def _read_within(self, index: int, offset: int, size: int) -> bytes | memoryview:
        segment = self._segments[index]
        begin = segment.offset + offset
        try:
            return self._view[begin : begin + size]
        except Damaged as error:
            raise _missing(error, begin, size, segment.offset - segment.start) from None

    @functools.cached_property
    def _view(self) -> Content | memoryview:
        return memoryview(self._content) if isinstance(self._content, mmap.mmap) else self._content

    def close(self) -> None:
        """Unmap and close the file; views that are still in use keep the map alive."""
        self._last = NOWHERE
        self.__dict__.pop("_view", None)
        with contextlib.suppress(BufferError):
            self._content.close()


def _missing(error: Damaged, begin: int, size: int, shift: int) -> MissingMemory:
    """Say as memory which part of ``size`` bytes at ``begin`` of the file is damaged."""
    first = max(error.offset, begin)
    return MissingMemory(first - shift, min(error.offset + error.size, begin + size) - first)
