"""What the sources have in common that read system RAM without the kernel watching over them."""

import abc
import bisect
import errno
from typing import Sequence

from memdump.machine import host, iomem, untouchable
from memdump.machine.source import Range, Source


class RamSource(Source):
    """Reads what ``/proc/iomem`` calls system RAM and nothing else.

    Pages that must not be touched (`untouchable`) are zeros and no error, as they are in ``/proc/kcore``.
    """

    def __init__(self, iomem_path: str = iomem.PATH) -> None:
        """Read the ranges; raises `NotPermitted` where they are hidden or memory must not be touched."""
        self._iomem = iomem_path
        self._ranges = iomem.read(iomem_path, host.PAGE_SIZE)
        self._starts = [found.start for found in self._ranges]
        untouchable.check()

    def ranges(self) -> Sequence[Range]:
        """Give the ranges of system RAM, of whole pages, ascending and disjoint."""
        return self._ranges

    def ranges_now(self) -> Sequence[Range]:
        """Read them anew."""
        return iomem.again(self._iomem, host.PAGE_SIZE, self._ranges)

    def read_into(self, address: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from physical ``address``; raises ``OSError`` where part of it cannot be read."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0 or address + len(buffer) > self._ranges[index].end:
            raise OSError(errno.EFAULT, f"not system RAM: physical address {address:#x}")
        for run, touchable in untouchable.runs(address, len(buffer)):
            part = buffer[run.start - address : run.end - address]
            if touchable:
                self._read(run.start, part)
            else:
                part[:] = bytes(run.size)

    @abc.abstractmethod
    def _read(self, address: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from physical ``address``, all of which is system RAM that may be read."""
