"""The file behind a mapping: where it ends, and where there is something in it.

Programs map files beyond their end, to have room when they grow, and large files with hardly anything in
them.  What is beyond the end cannot be read, and reading a hole would fill the page cache with zeros.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from memdump.machine.host import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.process.maps import Mapping

_QUIETLY = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""It must not wait for whoever has a lease on the file."""


def end_in(mapping: Mapping, pid: int) -> int:
    """Give how many bytes of a mapping its file reaches, in whole pages; all of it where that is unknown."""
    found = _file(mapping, pid)
    if found is None:
        return mapping.size
    behind = max(found[1].st_size - mapping.offset, 0)
    return min(-(-behind // PAGE_SIZE) * PAGE_SIZE, mapping.size)


def data_in(mapping: Mapping, pid: int) -> list[tuple[int, int]] | None:
    """Give the runs of addresses, start and end, behind which the file is no hole; None where unknown."""
    found = _file(mapping, pid)
    if found is None:
        return None
    try:
        file = os.open(found[0], _QUIETLY)
    except OSError:
        return None
    try:
        shift = mapping.start - mapping.offset
        return [
            (max(start + shift, mapping.start), min(end + shift, mapping.end))
            for start, end in _data(file, mapping.offset, mapping.offset + mapping.size)
        ]
    except OSError:
        return None
    finally:
        os.close(file)


def opened(mapping: Mapping, pid: int) -> int:
    """Open the very file of a mapping, to read it; raises ``OSError`` where it is not to be had."""
    found = _file(mapping, pid)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return os.open(found[0], _QUIETLY)


class Content:
    """What is in the file behind a mapping, read without the process: no page of it comes into that."""

    def __init__(self, mapping: Mapping, file: int) -> None:
        """Take the file, which stays the caller's."""
        self._file = file
        self._shift = mapping.offset - mapping.start

    def read_into(self, address: int, buffer: memoryview) -> None:
        """Fill a buffer, with zeros behind the end; raises ``OSError``."""
        while buffer:
            count = os.preadv(self._file, [buffer], address + self._shift)
            if not count:
                buffer[:] = bytes(len(buffer))
                return
            buffer, address = buffer[count:], address + count


def _data(file: int, at: int, end: int) -> Iterator[tuple[int, int]]:
    while at < end:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole until the end
                return
            raise
        if start >= end:
            return
        at = os.lseek(file, start, os.SEEK_HOLE)
        yield start // PAGE_SIZE * PAGE_SIZE, -(-at // PAGE_SIZE) * PAGE_SIZE


def _file(mapping: Mapping, pid: int) -> tuple[str | bytes, os.stat_result] | None:
    """Give a path to the very file of a mapping, if it is a plain one, and what is known of that file."""
    link = f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"
    with contextlib.suppress(OSError):  # it needs a capability (proc(5))
        found = os.stat(link)  # noqa: PTH116
        return (link, found) if stat.S_ISREG(found.st_mode) else None
    path = b"/proc/%d/root%b" % (pid, mapping.path)
    with contextlib.suppress(OSError):
        found = os.stat(path)  # noqa: PTH116
        is_it = (_device(found), found.st_ino) == (mapping.device, mapping.inode)
        return (path, found) if is_it and stat.S_ISREG(found.st_mode) else None
    return None


def _device(found: os.stat_result) -> str:
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
