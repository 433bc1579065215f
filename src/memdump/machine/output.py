"""A file that appears under its name only when it is whole.

Memory holds passwords and keys, and an unfinished image must not be taken for a whole one.  So the bytes go
to ``NAME.part``, which nobody else may read, no existing file is ever written over, no symbolic link is
followed, and the name itself appears at the end, in one step.
"""

import contextlib
import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Optional, Type, Union

from memdump.errors import MemdumpError, NotPermitted, UsageError

PathLike = Union[str, "os.PathLike[str]"]


class Output:
    """A new file: use it in a ``with`` block and call `commit` when everything is written.

    When the block is left without `commit`, the ``.part`` file is removed, or with ``keep_partial`` kept
    (memory that was acquired cannot be had a second time).
    """

    def __init__(self, path: PathLike, keep_partial: bool = False) -> None:
        """Create ``PATH.part``.

        Raises `UsageError` where ``PATH`` or ``PATH.part`` exists or the folder does not, and `NotPermitted`
        where the folder cannot be written to.
        """
        self.path = os.fspath(path)
        self.part = self.path + ".part"
        self.keep_partial = keep_partial
        self.position = 0
        """Where the next byte goes: the bytes written and skipped so far."""
        self._reserved = False
        if os.path.lexists(self.path):
            raise UsageError(f"{self.path}: exists already and is never written over; choose another name")
        self._fd = self._create()

    def _create(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self.part, flags, 0o600)
        except FileExistsError:
            raise UsageError(
                f"{self.part}: exists already, perhaps from a run that did not finish; remove it first"
            ) from None
        except PermissionError as error:
            raise NotPermitted(f"{self.part}: cannot be created: {error.strerror}") from None
        except OSError as error:
            raise UsageError(f"{self.part}: cannot be created: {error.strerror}") from None

    def write(self, data: Union[bytes, bytearray, memoryview]) -> int:
        """Write all of ``data``; raises `MemdumpError` where the disk is full or fails."""
        view = memoryview(data).cast("B")
        size = len(view)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise self._failed(error) from None
        self.position += size
        return size

    def skip(self, size: int) -> None:
        """Leave ``size`` bytes out: they read as zeros and take no room on the disk."""
        try:
            os.lseek(self._fd, size, os.SEEK_CUR)
        except OSError as error:
            raise self._failed(error) from None
        self.position += size

    def reserve(self, size: int) -> None:
        """Take room, where there is any, for bytes that come later, when the disk may be full."""
        self._reserved = True
        with contextlib.suppress(OSError):
            os.posix_fallocate(self._fd, 0, size)

    def settle(self) -> None:
        """Put what was written so far on the disk, and give back the memory that the system keeps of it.

        Raises `MemdumpError` where the disk is full or fails.
        """
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._failed(error) from None
        with contextlib.suppress(OSError):  # an advice, which not every file system takes
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def commit(self) -> None:
        """Make the file durable and give it its name; raises `MemdumpError` where that fails."""
        try:
            size = os.fstat(self._fd).st_size
            if size < self.position or self._reserved:  # a hole at the end, or room that was not needed
                os.ftruncate(self._fd, self.position)
            os.fsync(self._fd)
            self._rename()
        except OSError as error:
            raise self._failed(error) from None
        os.close(self._fd)
        self._fd = -1

    def _rename(self) -> None:
        # A hard link, unlike a rename, never replaces a file that came up under the name in the meantime.
        try:
            os.link(self.part, self.path)
        except FileExistsError:
            raise UsageError(
                f"{self.path}: was created by someone else meanwhile and is left alone; choose another name"
            ) from None
        except OSError:  # a file system without hard links
            Path(self.part).rename(self.path)
        else:
            Path(self.part).unlink()

    def _failed(self, error: OSError) -> MemdumpError:
        what = error.strerror or "the disk failed"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "no room left on the disk"
        elif error.errno == errno.EFBIG:
            what = "the file system or a limit here does not take a file of this size"
        fate = f"what was written stands in {self.part}" if self.keep_partial else "nothing was kept"
        return MemdumpError(f"{self.path}: {what} after {self.position} bytes; {fate}")

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if not self.keep_partial:
            Path(self.part).unlink()
