"""Where an image goes, and whether that is a good place for it."""

import os
import sys
from pathlib import Path
from typing import Optional, Tuple, Union

from memdump.errors import MemdumpError, UsageError

_MOUNTS = "/proc/self/mountinfo"
_IN_RAM = ("tmpfs", "ramfs", "devtmpfs", "rootfs")


class StandardOutput:
    """Standard output as the place an image is written to."""

    def __init__(self) -> None:
        """Take it; raises `UsageError` where it is a terminal."""
        self._fd = sys.stdout.fileno()
        if os.isatty(self._fd):
            raise UsageError("an image is not written to a terminal: name a file, or send standard output on")

    def write(self, data: Union[bytes, memoryview], /) -> None:
        """Write all of ``data``; raises `MemdumpError` where nobody takes it any more."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise MemdumpError(f"standard output: {error.strerror}; the image there is not whole") from None


def check(path: Path, size: int) -> None:
    """See that an image of ``size`` bytes may and can stand at ``path``.

    Raises `UsageError` where its folder is missing, lies in the very memory that is to be taken, or lacks the
    room.
    """
    try:
        room = os.statvfs(path.parent)
    except OSError as error:
        raise UsageError(f"{path.parent}: {error.strerror}; name a folder that exists") from None
    way_out = 'name a file on a disk, or write to "-" and send it to another machine'
    kind = _file_system(path.parent)
    if kind in _IN_RAM:
        raise UsageError(
            f"{path.parent} lies in memory ({kind}): the image would overwrite what it is to hold; {way_out}"
        )
    # Some network file systems know no sizes and say zero.
    free = (room.f_bfree if os.geteuid() == 0 else room.f_bavail) * room.f_frsize
    if room.f_blocks and free < size:
        raise UsageError(
            f"{path.parent} has room for {free >> 20} MiB and the image takes {size >> 20}; {way_out}"
        )


def _file_system(folder: Path, mounts: str = _MOUNTS) -> Optional[str]:
    """Name the type of the file system that takes what is written to a folder.

    The layout is that of ``mountinfo`` (kernel, ``Documentation/filesystems/proc.rst``).  An overlay, as
    live systems have, keeps it in its upper folder.
    """
    kind, options = _mounted(folder, mounts)
    for option in options.split(","):
        if kind == "overlay" and option.startswith("upperdir="):
            return _mounted(Path(option[len("upperdir=") :]), mounts)[0] or kind
    return kind


def _mounted(folder: Path, mounts: str) -> Tuple[Optional[str], str]:
    """Give the type and the options of the file system that a folder is on."""
    try:
        device = folder.stat().st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        for line in Path(mounts).read_text("utf-8", "surrogateescape").split("\n"):
            head, _, tail = line.partition(" - ")
            if head.split(" ")[2:3] == [number]:
                kind, _, options = tail.split(" ", 2)
                return kind, options
    except (OSError, ValueError):
        pass
    return None, ""
