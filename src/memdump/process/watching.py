"""Having the kernel note which pages a process writes to (``userfaultfd(2)``, asynchronous, Linux 6.7).

The descriptor is one for the memory of the process that makes it, so the process is lent for that; afterwards
it is ours alone.  Nobody waits for anybody: a page that is protected and written to is noted, and the write
goes on.  When the descriptor is closed, be it because its holder was killed, nothing of it remains.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from memdump.process import architecture

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

_ONE_THREAD = os.O_EXCL
"""For ``pidfd_open`` (``PIDFD_THREAD``)."""

_LIBC = ctypes.CDLL(None, use_errno=True)


def is_supported() -> bool:
    """Whether this kernel can do it at all, and this Python."""
    if not hasattr(os, "pidfd_open"):
        return False
    descriptor = _LIBC.syscall(architecture.this().numbers["userfaultfd"], USER_ONLY)
    if descriptor < 0:
        return False
    try:
        _open(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


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
        """Watch those of the mappings that can be; the kernel tells of the pages of which that is so."""
        for found in mappings:
            if found.shared or found.size > _VAST or found.permissions.startswith("---"):
                continue
            registered = bytearray(_REGISTERED.pack(found.start, found.size, _WRITES, 0))
            with contextlib.suppress(OSError):  # it is gone, the kernel's own, or another one's to watch
                fcntl.ioctl(self._descriptor, _REGISTER, registered)
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
