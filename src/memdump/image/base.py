"""A memory image, whatever its format, as one physical address space."""

from __future__ import annotations

import abc
import bisect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

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
    defects: list[str]
    """What is wrong with the file and was worked around, a line each: truncated, overlapping ranges."""

    @abc.abstractmethod
    def _read_within(self, index: int, offset: int, size: int) -> bytes | memoryview:
        """Bytes of ``ranges[index]`` from ``offset``; the caller guarantees that they lie inside the range.

        Raises `MissingMemory` where the file does not give them after all (a damaged block).
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
        """All memory in ascending order as ``(address, bytes)``, at most ``size`` bytes each.

        Blocks that cannot be read are left out and noted in `defects`.  A view is valid until the next step.
        """
        for index, found in enumerate(self.ranges):
            for offset in range(0, found.size, size):
                take = min(size, found.size - offset)
                try:
                    yield found.start + offset, memoryview(self._read_within(index, offset, take))
                except MissingMemory as error:
                    self.defects.append(str(error))

    @property
    def size(self) -> int:
        """Bytes of memory held."""
        return sum(found.size for found in self.ranges)

    def _range_at(self, address: int) -> int | None:
        index = bisect.bisect_right(self.ranges, address, key=lambda found: found.start) - 1
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
