"""Physical memory through ``/proc/kcore``, the kernel's own view of itself as an ELF core file."""

import bisect
import errno
import os
from typing import Optional, Sequence

from memdump.errors import MemdumpError, NotADump, NotPermitted
from memdump.machine import iomem, kcore_headers, lockdown
from memdump.machine.source import Range, Source

PATH = "/proc/kcore"
_ATTEMPTS = 3
"""Reads of the same memory before it counts as unreadable."""


class KcoreSource(Source):
    """Reads system RAM through the direct map in ``/proc/kcore``.

    The kernel itself puts zeros, and no error, in place of pages that it must not touch: offline and balloon
    pages, pages with a hardware error (Linux 5.14 and later, ``read_kcore_iter``).
    """

    name = "kcore"

    def __init__(self, path: str = PATH, iomem_path: str = iomem.PATH) -> None:
        """Open it and find the direct map.

        Raises `NotPermitted` where the kernel does not let us, and `NotADump` where the file is not a kcore.
        """
        self._fd = _open(path)
        self._iomem = iomem_path
        try:
            self._ranges = iomem.read(iomem_path, self.page_size)
            self.vmcoreinfo = self._find_segments()
        except NotADump as error:
            self.close()
            raise NotADump(f"{path}: {error}") from None
        except MemdumpError:
            self.close()
            raise
        self.direct_map = self._segments[0].distance

    def ranges(self) -> Sequence[Range]:
        """Give the ranges of system RAM, of whole pages, ascending and disjoint."""
        return self._ranges

    def ranges_now(self) -> Sequence[Range]:
        """Read them anew."""
        return iomem.again(self._iomem, self.page_size, self._ranges)

    def read_into(self, address: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from physical ``address``; raises ``OSError`` where part of it cannot be read.

        Behind the headers all that follows moves when they take another page: when memory was plugged in or
        taken offline, and somebody opened the file since (``kcore_update_ram``).  So a read counts only if
        there are as many headers after it as there were before.
        """
        for _ in range(_ATTEMPTS):
            try:
                self._read_once(address, buffer)
            except OSError:
                if self._front() == self._known:
                    raise
            if self._front() == self._known:
                return
            self._find_again()
        raise OSError(errno.EIO, "kcore moves all the time")

    def _read_once(self, address: int, buffer: memoryview) -> None:
        index = bisect.bisect_right(self._starts, address) - 1
        inside = address - self._starts[index]
        segment = self._segments[index]
        # Outside its segments the kernel gives zeros as if they were memory.
        if index < 0 or inside + len(buffer) > segment.size:
            raise OSError(errno.EFAULT, f"kcore does not hold physical address {address:#x}")
        offset = segment.offset + inside
        while buffer:
            taken = os.preadv(self._fd, [buffer], offset)
            if not taken:
                raise OSError(errno.EIO, f"kcore ends before physical address {address:#x}")
            buffer = buffer[taken:]
            offset += taken

    def _find_segments(self) -> Optional[str]:
        """Find the direct map in the file, and give VMCOREINFO; raises `NotADump`."""
        front = self._front()
        headers = kcore_headers.parse(self._read_header)
        self._segments = kcore_headers.direct_map(headers.segments, self._ranges)
        self._starts = [segment.physical or 0 for segment in self._segments]
        self._known = front
        return headers.vmcoreinfo

    def _find_again(self) -> None:
        try:
            self._find_segments()
        except NotADump as error:
            raise OSError(errno.EIO, f"kcore has moved: {error}") from None

    def _front(self) -> bytes:
        """Give the ELF header, which says how many program headers there are."""
        return os.pread(self._fd, kcore_headers.FRONT, 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _read_header(self, offset: int, size: int) -> bytes:
        parts = []
        try:
            while size:
                part = os.pread(self._fd, size, offset)
                if not part:
                    break
                parts.append(part)
                offset += len(part)
                size -= len(part)
        except OSError as error:
            raise NotADump(f"its headers cannot be read at offset {offset:#x}: {error.strerror}") from None
        return b"".join(parts)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotPermitted(
            f"{path} does not exist: this kernel is built without it (CONFIG_PROC_KCORE); "
            "take the memory from the hypervisor instead"
        ) from None
    except PermissionError as error:
        raise NotPermitted(f"{path} cannot be opened: {_why(error)}") from None
    except OSError as error:
        raise NotPermitted(f"{path} cannot be opened: {error.strerror}") from None


def _why(error: OSError) -> str:
    """Say what forbids it: the file's mode gives EACCES, a missing capability and lockdown give EPERM."""
    if error.errno == errno.EPERM and lockdown.level() == "confidentiality":
        return "the kernel is locked down (confidentiality); take the memory from the hypervisor instead"
    return "run as root (sudo) on the host itself, or grant CAP_SYS_RAWIO and CAP_DAC_READ_SEARCH"
