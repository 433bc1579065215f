"""Images made of bytes in memory, for kernels that no lab boots: broken ones."""

from __future__ import annotations

from pathlib import Path

from memdump.image.base import Image
from memdump.machine.source import Range


class BytesImage(Image):
    """Physical memory given as ``{address: bytes}``."""

    format = "bytes"

    def __init__(self, pieces: dict[int, bytes], vmcoreinfo: bytes | None = None) -> None:
        self.path = Path("bytes")
        self.defects = []
        self.vmcoreinfo = vmcoreinfo
        self._pieces = [pieces[start] for start in sorted(pieces)]
        self.ranges = tuple(Range(start, len(pieces[start])) for start in sorted(pieces))

    def _read_within(self, index: int, offset: int, size: int) -> bytes:
        return self._pieces[index][offset : offset + size]

    def close(self) -> None:
        """Nothing is held open."""


class Altered(Image):
    """Another image with some of its bytes replaced, and no VMCOREINFO of its own."""

    def __init__(self, image: Image, changes: dict[int, bytes], missing: range = range(0)) -> None:
        self.path, self.format, self.defects = image.path, image.format, []
        self._image = image
        self._changes = changes
        ranges = []
        for found in image.ranges:
            ranges.append(Range(found.start, min(found.end, max(found.start, missing.start)) - found.start))
            start = max(found.start, min(missing.stop, found.end))
            ranges.append(Range(start, found.end - start))
        self.ranges = tuple(found for found in ranges if found.size) if missing else image.ranges

    def _read_within(self, index: int, offset: int, size: int) -> bytes:
        start = self.ranges[index].start + offset
        data = bytearray(self._image.read(start, size))
        for address, change in self._changes.items():
            low, high = max(address, start), min(address + len(change), start + size)
            if low < high:
                data[low - start : high - start] = change[low - address : high - address]
        return bytes(data)

    def close(self) -> None:
        """The other image is closed by whoever opened it."""
