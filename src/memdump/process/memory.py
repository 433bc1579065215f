"""Reading the memory of a process that was captured, from wherever each part of it is held."""

from __future__ import annotations

import array
import bisect
import contextlib
import os
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import MemdumpError
from memdump.machine.host import PAGE_SIZE
from memdump.machine.source import Range, Source
from memdump.process import pagemap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdump.process.backing import Content

_ENTRY = 8
_LAST_BYTE = _ENTRY - 1 if sys.byteorder == "little" else 0
"""Of an entry of pagemap; its upper three bits say: in memory, in swap, a file's."""
_ABSENT = re.compile(rb"[\x00-\x1f]+")
_ZEROS = memoryview(bytes(2 << 20))


class Part(NamedTuple):
    """Some addresses, and where their content is."""

    start: int
    size: int
    held: Memory | Content | memoryview
    """Something to read, or what was read already."""
    private: bool
    """Whether pages that are nowhere are zeros: private memory without a file."""

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.start + self.size


class Memory:
    """The memory of a process that is there."""

    def __init__(self, pid: int) -> None:
        """Open it; raises ``OSError``."""
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        self._pages: int | None = None
        with contextlib.suppress(OSError):
            self._pages = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def read_into(self, address: int, buffer: memoryview) -> None:
        """Fill a buffer; raises ``OSError`` where any of it cannot be read."""
        while buffer:
            count = os.preadv(self._memory, [buffer], address)
            if not count:
                raise MemdumpError("the process is gone, or its copy was killed because memory is short")
            buffer = buffer[count:]
            address += count

    def read_private(self, address: int, buffer: memoryview) -> None:
        """Fill a buffer from private memory, where what was never written to need not be read."""
        for start, size in self.absent(address, len(buffer)):
            done = start - address
            self.read_into(address, buffer[:done])
            buffer[done : done + size] = _ZEROS[:size]
            address, buffer = start + size, buffer[done + size :]
        self.read_into(address, buffer)

    def absent(self, address: int, size: int) -> list[tuple[int, int]]:
        """Give the runs of pages, address and size, that are nowhere: neither in memory nor in swap."""
        if self._pages is None:
            return []
        try:
            entries = os.pread(self._pages, size // PAGE_SIZE * _ENTRY, address // PAGE_SIZE * _ENTRY)
        except OSError:
            return []
        last = entries[_LAST_BYTE::_ENTRY]
        return [
            (address + found.start() * PAGE_SIZE, (found.end() - found.start()) * PAGE_SIZE)
            for found in _ABSENT.finditer(last)
        ]

    def populated(self, start: int, end: int) -> list[tuple[int, int]]:
        """Give the runs of private memory, start and end, outside of which nothing is."""
        if self._pages is None:
            return [(start, end)]
        try:
            used = pagemap.scan(self._pages, start, end, pagemap.USED)
            return list(pagemap.joined(pagemap.spans(used)))
        except OSError:  # an older kernel
            return [(start, end)]

    def scan(self, start: int, end: int, wanted: pagemap.Wanted) -> list[pagemap.Run]:
        """Give the runs of pages of some kinds; raises ``OSError`` on older kernels."""
        return list(pagemap.scan(self._pages, start, end, wanted)) if self._pages is not None else []

    def close(self) -> None:
        """Let go of it."""
        os.close(self._memory)
        if self._pages is not None:
            os.close(self._pages)


class CapturedMemory(Source):
    """The parts of a captured process that are to be read, as a source."""

    name = "process"

    def __init__(self, parts: Sequence[Part]) -> None:
        """Take the parts, which ascend."""
        self._parts = parts
        self._starts = array.array("Q", (part.start for part in parts))

    def ranges(self) -> Sequence[Range]:
        """Give all addresses."""
        return [Range(part.start, part.size) for part in self._parts]

    def read_into(self, address: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from one part; raises ``OSError`` where it cannot be read."""
        part = self._parts[bisect.bisect_right(self._starts, address) - 1]
        if isinstance(part.held, memoryview):
            at = address - part.start
            buffer[:] = part.held[at : at + len(buffer)]
        elif part.private and isinstance(part.held, Memory):
            part.held.read_private(address, buffer)
        else:
            part.held.read_into(address, buffer)

    def close(self) -> None:
        """Do nothing: what is held is its holder's."""
