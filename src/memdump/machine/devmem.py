"""Physical memory through ``/dev/mem``, on kernels that still give all of it."""

import errno
import os

from memdump.errors import NotPermitted
from memdump.machine import host, iomem, lockdown, vmcoreinfo
from memdump.machine.ram import RamSource

PATH = "/dev/mem"

_LOW = 1 << 20
"""The first MiB is given even by kernels that restrict the rest (x86, ``devmem_is_allowed``)."""


class DevmemSource(RamSource):
    """Reads system RAM at its physical address, which is the offset in the file."""

    name = "devmem"
    evidence = "offsets are physical addresses"

    def __init__(self, path: str = PATH, iomem_path: str = iomem.PATH) -> None:
        """Open it and try a page of RAM.

        Raises `NotPermitted` with what would permit it.
        """
        super().__init__(iomem_path)
        self._path = path
        self._fd = _open(path)
        try:
            self._try()
            self.vmcoreinfo = vmcoreinfo.read(self)
        except BaseException:
            self.close()
            raise

    def _try(self) -> None:
        """Read the first page above 1 MiB."""
        above = [found for found in self._ranges if found.end > _LOW]
        if not above:
            return
        try:
            self._read(max(above[0].start, _LOW), memoryview(bytearray(host.PAGE_SIZE)))
        except OSError as error:
            if error.errno == errno.EPERM:
                raise NotPermitted("this kernel restricts /dev/mem (CONFIG_STRICT_DEVMEM)") from None
            raise NotPermitted(f"{self._path} cannot be read: {error.strerror}") from None

    def _read(self, address: int, buffer: memoryview) -> None:
        while buffer:
            taken = os.preadv(self._fd, [buffer], address)
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
        raise NotPermitted(
            f"{path} does not exist: this kernel is built without it (CONFIG_DEVMEM)"
        ) from None
    except OSError as error:
        raise NotPermitted(f"{path} cannot be opened: {_why(error)}") from None


def _why(error: OSError) -> str:
    """Say what forbids it: the file's mode gives EACCES, a missing capability and lockdown give EPERM."""
    if error.errno == errno.EPERM and lockdown.level() != "none":
        return f"the kernel is locked down ({lockdown.level()})"
    if error.errno in (errno.EPERM, errno.EACCES):
        return "run as root (sudo) on the host itself, or grant CAP_SYS_RAWIO"
    return error.strerror or str(error)
