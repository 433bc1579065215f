"""Room that is kept for the end of a file, when the disk may be full."""

import contextlib
import os
import threading
from pathlib import Path
from typing import Optional


class Reserve:
    """Some bytes of a file system, held by a file without a name until they are needed.

    A process that dies gives them back, whatever it dies of.
    """

    def __init__(self, folder: str, size: int) -> None:
        """Take ``size`` bytes of the file system that ``folder`` is on, or none where it has not so many."""
        self._lock = threading.Lock()
        self._fd: Optional[int] = None
        if size > 0:
            with contextlib.suppress(OSError):
                self._fd = nameless(folder)
                os.posix_fallocate(self._fd, 0, size)

    def release(self) -> bool:
        """Give the room back; whether there was any left to give."""
        with self._lock:
            fd, self._fd = self._fd, None
        if fd is None:
            return False
        with contextlib.suppress(OSError):
            held = os.fstat(fd).st_blocks > 0
            os.ftruncate(fd, 0)
            os.fsync(fd)  # journals hand blocks out again only after their freeing is on the disk
        os.close(fd)
        return held


def nameless(folder: str) -> int:
    """Open a new file that has no name, for its owner alone; raises ``OSError``."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # a file system that has no such files
        import tempfile

        fd, path = tempfile.mkstemp(prefix=".memdump-", dir=folder)
        Path(path).unlink()
        return fd
