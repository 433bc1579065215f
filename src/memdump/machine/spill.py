"""A file without a name, for what finds no room in memory; it is gone when the program ends."""

import contextlib
import errno
import os
from typing import Union

from memdump.machine.beside import Beside
from memdump.machine.gentle import EVERY
from memdump.machine.reserve import nameless


class SpillFile:
    """Keeps pieces of data in a nameless file, readable by its owner alone."""

    def __init__(self, folder: str, leave: int) -> None:
        """Create it in ``folder``, and leave at least ``leave`` bytes of that disk free.

        Raises ``OSError`` where that folder takes no files.
        """
        self._fd = nameless(folder)
        with contextlib.suppress(OSError):  # nor is anything wanted that was not asked for
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)
        self._leave = leave
        self._size = 0
        self._since = 0
        self._settling = Beside("settle")

    def put(self, data: Union[bytes, memoryview]) -> int:
        """Keep ``data`` and tell where; raises ``OSError`` where there is no room for it."""
        room = os.fstatvfs(self._fd)
        if room.f_blocks and room.f_bavail * room.f_frsize < self._leave + len(data):
            raise OSError(errno.ENOSPC, "no room to spare")
        place = self._size
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, self._size)
            self._size += done
            view = view[done:]
        self._since += len(data)
        if self._since >= EVERY:
            self._since = 0
            self._settling.wait()
            self._settling.start(self._settle)
        return place

    def get(self, place: int, size: int) -> bytes:
        """Give back what was kept; raises ``OSError`` where the disk fails."""
        parts = []
        while size:
            part = os.pread(self._fd, size, place)
            if not part:
                raise OSError(errno.EIO, "a file of early copies was cut off")
            parts.append(part)
            place += len(part)
            size -= len(part)
        # What is read back would fill memory as well; nothing before it is asked for again.
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._fd, 0, place, os.POSIX_FADV_DONTNEED)
        return b"".join(parts)

    def _settle(self) -> None:
        # The system would keep all of it in memory, in place of what is to be taken.
        os.fdatasync(self._fd)
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Give the room back."""
        with contextlib.suppress(OSError):
            self._settling.close()
        os.close(self._fd)
