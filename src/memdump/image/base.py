"""A memory image, whatever its format, as one physical address space."""

from __future__ import annotations

import abc
import bisect
import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from memdump.image.layers import Layer
    from memdump.machine.source import Range

CHUNK = 4 << 20


class MissingMemory(LookupError):
    """The image does not hold this physical memory: outside every range, or lost with the end of the file."""

    def __init__(self, address: int, size: int) -> None:
        super().__init__(f"no memory at physical address {address:#x} ({size} bytes)")
        self.address = address
        self.size = size


class Image(abc.ABC):
    """A dump as a physical address space.

    A subclass is one file format.  It sets the attributes below and implements `_read_within`; the ranges are
    ascending, disjoint and not empty, and hold only what the file really has.
    """

    format: str
    """Name of the format, as the commands spell it: ``raw``, ``lime``, ``avml``, ``elf``, ``kdump``."""
    path: Path
    ranges: tuple[Range, ...]
    vmcoreinfo: bytes | None = None
    """The VMCOREINFO text that the format itself carries, where it does."""
    architecture: str | None = None
    """The machine as ``uname -m`` names it (``x86_64``, ``aarch64``), where the format says it."""
    defects: list[str]
    """What is wrong with the file and was worked around, a line each: truncated, overlapping ranges."""
    layers: tuple[Layer, ...] = ()
    """What the format is wrapped in, from the outside."""
    metadata: bytes = b""
    """What travels in a layer beside the memory: the manifest of an acquisition, as JSON."""
    identity: str | None = None
    """The file whose keys decrypted the image, where one did."""
    file_size: int = 0
    """Bytes that the image takes on the disk."""

    @abc.abstractmethod
    def _read_within(self, index: int, offset: int, size: int) -> bytes | memoryview:
        """Bytes of ``ranges[index]`` from ``offset``; the caller guarantees that they lie inside the range.

        Raises `MissingMemory`, with the first part that is missing, where the file does not give them after
        all (a damaged block).
        """

    def read(self, address: int, size: int) -> bytes:
        """Read ``size`` bytes at physical ``address``; raises `MissingMemory` unless all of it is there."""
        parts = []
        while size:
            index = self._range_at(address)
            if index is None:
                raise MissingMemory(address, size)
            found = self.ranges[index]
            take = min(size, found.end - address)
            parts.append(self._read_within(index, address - found.start, take))
            address += take
            size -= take
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[int, memoryview]]:
        """All memory, ascending, as ``(address, bytes)`` of at most ``size`` bytes, never across ranges.

        Memory that cannot be read after all is left out, and `defects` says how much.  A view is valid until
        the next step.
        """
        lost = _Lost()
        try:
            for index, found in enumerate(self.ranges):
                for offset in range(0, found.size, size):
                    yield from self._readable(index, offset, min(size, found.size - offset), lost)
        finally:
            if lost.places and (defect := lost.describe()) not in self.defects:
                self.defects.append(defect)

    def _readable(self, index: int, offset: int, size: int, lost: _Lost) -> Iterator[tuple[int, memoryview]]:
        """Yield what can be read of a part of a range, stepping over what cannot."""
        start = self.ranges[index].start
        end = offset + size
        while offset < end:
            try:
                data = self._read_within(index, offset, end - offset)
            except MissingMemory as error:
                damage = error
            else:
                yield start + offset, memoryview(data)
                return
            if damage.address > start + offset:
                before = damage.address - (start + offset)
                yield start + offset, memoryview(self._read_within(index, offset, before))
            lost.add(damage)
            offset = damage.address + damage.size - start

    @property
    def size(self) -> int:
        """Bytes of memory held."""
        return sum(found.size for found in self.ranges)

    @functools.cached_property
    def _starts(self) -> list[int]:
        return [found.start for found in self.ranges]

    def _range_at(self, address: int) -> int | None:
        index = bisect.bisect_right(self._starts, address) - 1
        return index if index >= 0 and address < self.ranges[index].end else None

    @abc.abstractmethod
    def close(self) -> None:
        """Unmap and close the file."""

    def __enter__(self) -> Image:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Lost:
    """Counts the memory that a pass over an image could not read."""

    def __init__(self) -> None:
        self.places = 0
        self.size = 0
        self.first = 0
        self.end = -1

    def add(self, missing: MissingMemory) -> None:
        if not self.places:
            self.first = missing.address
        self.places += missing.address != self.end
        self.size += missing.size
        self.end = missing.address + missing.size

    def describe(self) -> str:
        places = "1 place" if self.places == 1 else f"{self.places} places"
        return f"{self.size} bytes in {places} cannot be read, the first at physical {self.first:#x}: damaged"
