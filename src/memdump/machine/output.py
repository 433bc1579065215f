"""A file that appears under its name only when it is whole.

Memory holds passwords and keys, and an unfinished image must not be taken for a whole one.  So the bytes go
to ``NAME.part``, which nobody else may read, no existing file is ever written over, no symbolic link is
followed, and the name itself appears at the end, in one step.
"""

import contextlib
import ctypes
import errno
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Iterable, Optional, Sequence, Type, Union

from memdump.errors import MemdumpError, NotPermitted, UsageError
from memdump.machine.direct import Direct

if TYPE_CHECKING:
    from memdump.machine.reserve import Reserve

PathLike = Union[str, "os.PathLike[str]"]

Content = Union[bytes, Iterable[bytes]]
"""What is written to a file beside an image: bytes, or pieces where they are too many to be held at once."""

_LIBC = ctypes.CDLL(None)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""Of ``fallocate(2)``."""
_ZEROS = memoryview(bytes(1 << 18))
_AT_ONCE = 256 << 10
"""Bytes; for more, file systems look for large blocks of memory, which costs many times the writing."""
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems say that have no hard links."""
NO_ROOM = "no room left on the disk"


class NoRoom(MemdumpError):
    """The disk is full, or what this user may have of it."""


class Output:
    """A new file: use it in a ``with`` block and call `commit` when everything is written.

    When the block is left without `commit`, the ``.part`` file is removed, or with ``keep_partial`` kept
    (memory that was acquired cannot be had a second time).
    """

    def __init__(self, path: PathLike, keep_partial: bool = False, durable: bool = True) -> None:
        """Create ``PATH.part``.

        Raises `UsageError` where ``PATH`` or ``PATH.part`` exists or the folder does not, and `NotPermitted`
        where the folder cannot be written to.
        """
        self.path = os.fspath(path)
        self.part = self.path + ".part"
        self.keep_partial = keep_partial
        self._durable = durable
        self.position = 0
        """Where the next byte goes: the bytes written and skipped so far."""
        self.spare: Optional[Reserve] = None
        """Room that is given up when the disk is full."""
        self.trouble: Optional[str] = None
        """Set when the room was given up: there is little left, and the file should come to its end."""
        self._lock = threading.Lock()
        self._named = False
        refuse_existing(self.path)
        self._fd = self._create()
        self._direct: Optional[Direct] = None

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
        """Write all of ``data``; raises `NoRoom` where the disk is full, `MemdumpError` where it fails.

        A full disk first costs the spare room.
        """
        size = self._put(data, self.position, in_order=True)
        self.position += size
        return size

    def write_at(self, data: Union[bytes, bytearray, memoryview], at: int) -> int:
        """As `write`, at a place in the file; several threads may do so at once.

        `position` stays as it is; `end_at` says at last where the file ends.
        """
        return self._put(data, at, in_order=False)

    def _put(self, data: Union[bytes, bytearray, memoryview], at: int, in_order: bool) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        direct = self._direct if self._direct and self._direct.is_quicker(size, at) else None
        start = time.monotonic()
        while view:
            trouble = self.trouble
            try:
                count = direct.write(view, at) if direct else os.pwrite(self._fd, view[:_AT_ONCE], at)
            except OSError as error:
                if direct and error.errno == errno.EINVAL:
                    if len(view) == size:  # what is left of half a write may be no multiple of a block
                        direct.give_up()
                    direct = None
                elif not (_is_full(error) and self._give_room(trouble)):
                    raise self._failed(error, at if in_order else None) from None
            else:
                view, at = view[count:], at + count
        if self._direct:
            self._direct.tell(direct=direct is not None, size=size, seconds=time.monotonic() - start)
        return size

    def write_directly(self) -> None:
        """From now on write past the page cache what is large and aligned, where that is the quicker way.

        Where the file system does not offer it, nothing changes.
        """
        with contextlib.suppress(OSError):
            self._direct = Direct(self._fd)

    def _give_room(self, known: Optional[str] = None) -> bool:
        """Give up the spare room; true if it was given up since ``known`` was the trouble."""
        with self._lock:
            if self.trouble == known:
                if self.spare is None or not self.spare.release():
                    return False
                self.trouble = NO_ROOM
            return True

    def rewrite(self, last: Sequence[Union[bytes, memoryview]]) -> None:
        """Write the last bytes of the file once more, which the system lost for want of room.

        Raises as `write` does.
        """
        self._give_room()
        at = self.position - sum(map(len, last))
        try:
            for data in last:
                view = memoryview(data)
                while view:
                    count = os.pwrite(self._fd, view, at)
                    view, at = view[count:], at + count
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._failed(error, self.position) from None

    def skip(self, size: int) -> None:
        """Leave ``size`` bytes out: they read as zeros and take no room on the disk."""
        self.position += size

    def erase(self, at: int, size: int) -> None:
        """Make zeros of what stands at a place; raises as `write` does."""
        if not _punch(self._fd, at, size):
            for start in range(at, at + size, len(_ZEROS)):
                self.write_at(_ZEROS[: at + size - start], start)

    def end_at(self, size: int) -> None:
        """Let the file end there: what is behind is cut off, and what was never written reads as zeros."""
        try:
            if self._fd < 0:  # it was let go of
                self._fd = os.open(self.part, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise self._failed(error, self.position) from None
        self.position = size

    def cut(self) -> None:
        """Let the file end where it was written to; behind that may stand what a failed write left.

        Raises `MemdumpError`.
        """
        self.end_at(self.position)

    def settle(self) -> None:
        """Put what was written so far on the disk, and give back the memory that the system keeps of it.

        Raises `NoRoom` where the disk is full, which some file systems notice only now, and `MemdumpError`
        where it fails.
        """
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._failed(error, self.position) from None
        with contextlib.suppress(OSError):  # an advice, which not every file system takes
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def commit(self) -> None:
        """Make the file durable and give it its name; raises `MemdumpError` where that fails."""
        self.seal()
        self.give_name()
        settle_folder(self.path)

    def seal(self) -> None:
        """Make the file durable, where that is wanted, and let go of it; it is ``PATH.part`` still.

        Raises as `write` does.
        """
        try:
            if os.fstat(self._fd).st_size < self.position:  # a hole at the end
                os.ftruncate(self._fd, self.position)
            if self._durable:
                os.fsync(self._fd)
        except OSError as error:
            raise self._failed(error, self.position) from None
        self.close()

    def give_name(self) -> None:
        """Put the file under its name, never in place of another; raises `MemdumpError` where that fails."""
        # A hard link, unlike a rename, never replaces a file that came up under the name in the meantime.
        try:
            os.link(self.part, self.path)
        except FileExistsError:
            raise UsageError(
                f"{self.path}: was created by someone else meanwhile and is left alone; choose another name"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise self._failed(error, self.position) from None
            self._rename()
        else:
            Path(self.part).unlink()
        self._named = True

    def _rename(self) -> None:
        refuse_existing(self.path)
        try:
            Path(self.part).rename(self.path)
        except OSError as error:
            raise self._failed(error, self.position) from None

    def remove(self) -> None:
        """Leave nothing behind of a file that has no name yet."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            Path(self.part).unlink()

    def close(self) -> None:
        """Let go of the file, under the name that it has."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._direct:
            self._direct.close()
            self._direct = None

    def _failed(self, error: OSError, after: Optional[int]) -> MemdumpError:
        """Say what went wrong ``after`` so many bytes; None where others may stand before and behind them."""
        kind, what = MemdumpError, error.strerror or "the disk failed"
        if _is_full(error):
            kind, what = NoRoom, NO_ROOM
        elif error.errno == errno.EFBIG:
            what = "the file system or a limit here does not take a file of this size"
        fate = f"what was written stands in {self.part}" if self.keep_partial else "nothing was kept"
        place = "" if after is None else f" after {after} bytes"
        return kind(f"{self.path}: {what}{place}; {fate}")

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if self._named or self.keep_partial:
            self.close()
        else:
            self.remove()


def each(content: Content) -> Iterable[bytes]:
    """Give the pieces of a content."""
    return [content] if isinstance(content, bytes) else content


def write_file(path: str, content: Content) -> None:
    """Write a file whole or not at all; raises `MemdumpError`."""
    with Output(path) as out:
        for piece in each(content):
            out.write(piece)
        out.commit()


def refuse_existing(path: str) -> None:
    """Raise `UsageError` where there is something under the name ``path``, be it a broken link."""
    if os.path.lexists(path):
        raise UsageError(f"{path}: exists already and is never written over; choose another name")


def settle_folder(path: str) -> None:
    """Put the name of the file on the disk too, where the file system lets folders be settled."""
    with contextlib.suppress(OSError):
        fd = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _punch(fd: int, at: int, size: int) -> bool:
    """Give the room of some bytes back, which read as zeros then; False where that cannot be done."""
    how = _KEEP_SIZE | _PUNCH_HOLE
    return not _LIBC.fallocate(fd, how, ctypes.c_int64(at), ctypes.c_int64(size))


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
