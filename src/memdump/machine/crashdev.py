"""Physical memory through ``/dev/crash``, the driver that Red Hat's kernels have for the crash utility.

It reads at the physical address that is the offset, and no further than to the end of a page
(``memory_driver/crash.c`` of crash).
"""

import errno
import os
from pathlib import Path

from memdump.errors import NotPermitted
from memdump.machine import host, iomem, vmcoreinfo
from memdump.machine.ram import RamSource

PATH = "/dev/crash"
MODULES = "/lib/modules"

_PAGES = 512
"""Pages that are asked for at once; the system takes 1024 buffers."""


class CrashSource(RamSource):
    """Reads system RAM at its physical address."""

    name = "crash"
    evidence = "offsets are physical addresses"

    def __init__(self, path: str = PATH, iomem_path: str = iomem.PATH) -> None:
        """Open it and try a page; raises `NotPermitted` with what would permit it."""
        super().__init__(iomem_path)
        self._path = path
        self._fd = _open(path)
        try:
            self._read(self._ranges[-1].start, memoryview(bytearray(host.PAGE_SIZE)))
            self.vmcoreinfo = vmcoreinfo.read(self)
        except OSError as error:
            self.close()
            raise NotPermitted(f"{path} cannot be read: {error.strerror}") from None

    def _read(self, address: int, buffer: memoryview) -> None:
        while buffer:
            first = min(host.PAGE_SIZE - address % host.PAGE_SIZE, len(buffer))
            ends = range(first, len(buffer) + host.PAGE_SIZE, host.PAGE_SIZE)[:_PAGES]
            pages = [buffer[max(end - host.PAGE_SIZE, 0) : end] for end in ends]
            taken = os.preadv(self._fd, pages, address)
            if not taken:
                raise OSError(errno.EIO, f"{self._path} ends before physical address {address:#x}")
            buffer = buffer[taken:]
            address += taken

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotPermitted(_how_to_have_it(path)) from None
    except OSError as error:
        raise NotPermitted(
            f"{path} cannot be opened: {error.strerror}; run as root (sudo) on the host"
        ) from None


def _how_to_have_it(path: str) -> str:
    """Say whether a module would bring the device; memdump itself loads none."""
    try:
        known = Path(MODULES, os.uname().release, "modules.dep").read_text("utf-8", "replace")
    except OSError:
        known = ""
    if "/crash.ko" in known:
        return f"{path} does not exist: 'modprobe crash' makes it, if you want that module loaded"
    return f"{path} does not exist: this kernel has no crash driver, as Red Hat's have"
