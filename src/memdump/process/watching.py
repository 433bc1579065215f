"""Having the kernel note which pages a process writes to (``userfaultfd(2)``, asynchronous).

The descriptor is one for the memory of the process that makes it, so the process is lent for that; afterwards
it is ours alone.  Nobody waits for anybody: a page that is protected and written to is noted, and the write
goes on.  When the descriptor is closed, be it because its holder was killed, nothing of it remains.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import mmap
import os
import re
import struct
from typing import TYPE_CHECKING

from memdump.process import architecture, pagemap

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memdump.process.maps import Mapping

USER_ONLY = os.O_CLOEXEC | os.O_NONBLOCK | 1
"""For ``userfaultfd``: what every user may ask for (``UFFD_USER_MODE_ONLY``)."""
_API, _REGISTER, _UNREGISTER = 0xC018AA3F, 0xC020AA00, 0x8010AA01
_VERSION, _WRITES = 0xAA, 1 << 1
_FEATURES = 1 << 13 | 1 << 15
"""``UFFD_FEATURE_WP_UNPOPULATED``, ``UFFD_FEATURE_WP_ASYNC``."""
_ASKED, _REGISTERED, _RANGE = struct.Struct("=QQQ"), struct.Struct("=QQQQ"), struct.Struct("=QQ")
_PIECE = 16 << 20
"""Bytes that are let go of at once: meanwhile no page can come into the process, for a quarter of a ms."""
_VAST = 1 << 40
"""Bytes; a mapping of more is not watched, since letting go of it would take long."""

_SINCE = (6, 12)
_MOVE = 3
"""For ``mremap``: to a given place (``MREMAP_MAYMOVE | MREMAP_FIXED``)."""
_ONE_THREAD = os.O_EXCL
"""For ``pidfd_open`` (``PIDFD_THREAD``)."""

_LIBC = ctypes.CDLL(None, use_errno=True)


@functools.lru_cache(maxsize=None)  # noqa: UP033 (Python 3.8)
def is_supported() -> bool:
    """Whether this kernel can do it, and rightly, and this Python can.

    Kernels before 6.12 have several flaws in it, and one more was mended in the course of 6.12: memory that
    is moved is watched no more, and still seemed to be protected.  So it is tried out.
    """
    if not hasattr(os, "pidfd_open") or tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < _SINCE:
        return False
    descriptor = _LIBC.syscall(architecture.this().numbers["userfaultfd"], USER_ONLY)
    if descriptor < 0:
        return False
    try:
        _open(descriptor)
        return _sees_all(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _sees_all(descriptor: int) -> bool:
    """Try it with two pages of our own, of which one is written to, and the other one moved."""
    size = mmap.PAGESIZE
    start, elsewhere = _mapped(2 * size), _mapped(size)
    pages = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        ctypes.memset(start, 1, 2 * size)
        _register(descriptor, start, 2 * size)
        for _ in pagemap.scan(pages, start, start + 2 * size, pagemap.PROTECTED):
            pass
        ctypes.memset(start, 2, size)
        _LIBC.mremap(*map(ctypes.c_void_p, (start + size, size, size, _MOVE, elsewhere)))
        runs = [
            *pagemap.scan(pages, start, start + 2 * size, pagemap.CHANGED),
            *pagemap.scan(pages, elsewhere, elsewhere + size, pagemap.OWN._replace(told=pagemap.WRITTEN)),
        ]
        moved = pagemap.Run(elsewhere, elsewhere + size, pagemap.WRITTEN)
        return list(pagemap.spans(runs[:1])) == [(start, start + size)] and runs[1:] == [moved]
    finally:
        os.close(pages)
        for address, length in ((start, 2 * size), (elsewhere, size)):
            _LIBC.munmap(ctypes.c_void_p(address), ctypes.c_size_t(length))


def _mapped(size: int) -> int:
    """Map memory that Python knows nothing of."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    words = (0, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    address = ctypes.cast(_LIBC.mmap, ctypes.CFUNCTYPE(ctypes.c_void_p, *[ctypes.c_long] * 6))(*words)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    return int(address)


def _register(descriptor: int, start: int, size: int) -> None:
    fcntl.ioctl(descriptor, _REGISTER, bytearray(_REGISTERED.pack(start, size, _WRITES, 0)))


def _open(descriptor: int) -> None:
    fcntl.ioctl(descriptor, _API, bytearray(_ASKED.pack(_VERSION, _FEATURES, 0)))


def taken_over(pid: int, tid: int, number: int) -> int:
    """Make a descriptor of a thread of a process our own, too; raises ``OSError``."""
    try:
        process = os.pidfd_open(tid, _ONE_THREAD)
    except OSError:  # before Linux 6.9: only while the main thread has not ended
        process = os.pidfd_open(pid)
    try:
        own = _LIBC.syscall(architecture.this().numbers["pidfd_getfd"], process, number, 0)
        if own < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return int(own)
    finally:
        os.close(process)


class Watcher:
    """Watches the private memory of one process."""

    def __init__(self, descriptor: int) -> None:
        """Take a descriptor that the process has made, and close it in the end; raises ``OSError``."""
        self._descriptor = descriptor
        self._watched: list[Mapping] = []
        try:
            _open(descriptor)
        except OSError:
            os.close(descriptor)
            raise

    def watch(self, mappings: Iterable[Mapping]) -> None:
        """Watch those of the mappings that can be; the kernel tells of the pages of which that is so.

        Raises ``OSError`` where somebody else watches one: each would clear what the other one has to see.
        """
        for found in mappings:
            if found.size > _VAST or found.permissions.startswith("---"):
                continue
            try:
                _register(self._descriptor, found.start, found.size)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    raise
            else:
                self._watched.append(found)

    def end(self) -> None:
        """Let go of all of it, piece by piece: at once, a large process would stand still for long."""
        for found in self._watched:
            for start in range(found.start, found.end, _PIECE):
                size = min(_PIECE, found.end - start)
                with contextlib.suppress(OSError):  # no longer there
                    fcntl.ioctl(self._descriptor, _UNREGISTER, _RANGE.pack(start, size))
        self._watched.clear()
        os.close(self._descriptor)
