"""A file as the place an image is written to, or several files of a size."""

import contextlib
import os
from pathlib import Path
from typing import Optional, Sequence, Union

from memdump.errors import MemdumpError, NotPermitted, UsageError
from memdump.machine.destination import Destination, Options, room
from memdump.machine.gentle import Gentle
from memdump.machine.manifest import Part
from memdump.machine.output import Content, Output, refuse_existing, write_file
from memdump.machine.reserve import Reserve
from memdump.machine.split import SplitFile
from memdump.machine.split import check as check_pieces

# These know when they take bytes whether there is room for them; others, those over a network above all, may
# notice it later.
_KNOW_THEIR_ROOM = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat", "exfat", "ntfs3", "tmpfs")
_ATTACHMENTS = 256 << 10
"""Bytes kept free for what is attached, which is due just when the image has filled the disk."""


class FileDestination(Destination):
    """A new file ``PATH``, which is ``PATH.part`` until it is whole; see `memdump.machine.output`."""

    def __init__(self, path: Path, options: Options) -> None:
        """Create it; raises `UsageError` where it, or what is to be attached to it, exists."""
        self.place = str(path)
        self.file = path.name
        free, kind = room(path)
        _check_attachments(path, options)
        self._file = _create(path, options)
        self.partial = f"what was written stands in {self._file.part}"
        folder = str(path.parent)
        self._for_attachments = Reserve(folder, _ATTACHMENTS if options.attachments else 0)
        self._file.spare = self._spare = Reserve(folder, _reserve(options, free))
        self._stream = None
        if options.hasty:
            self.output = self._file if isinstance(self._file, Output) else None
        else:
            self._stream = Gentle(self._file, None if kind in _KNOW_THEIR_ROOM else self._file.rewrite)
        self._ended = False

    @property
    def parts(self) -> Sequence[Part]:
        """The files that the image was split into; none where it is in one."""
        return self._file.parts if isinstance(self._file, SplitFile) else ()

    @property
    def trouble(self) -> Optional[str]:
        """Set when the disk is full and the reserve is being used."""
        return self._file.trouble

    def write(self, data: Union[bytes, memoryview], /) -> None:
        """Write all of ``data``; raises `MemdumpError` where the disk fails or the reserve too is used up."""
        (self._stream or self._file).write(data)

    def skip(self, size: int) -> None:
        """Leave so many zeros out of a file that nothing else is done to."""
        if self.output is not None:
            self.output.skip(size)
        else:
            super().skip(size)

    def commit(self) -> None:
        """Make the file durable and give it its name."""
        if self._stream:
            self._stream.close()
        self._file.commit()
        self._end()

    def abandon(self) -> None:
        """Leave it as ``PATH.part``, durable as far as the disk lets it be."""
        if self._ended:
            return
        with contextlib.suppress(MemdumpError):
            if self._stream:
                self._stream.close()
        with contextlib.suppress(MemdumpError):
            self._file.cut()
        with contextlib.suppress(MemdumpError):
            self._file.settle()
        self._file.close()
        if self.output and not self.output.keep_partial:
            self.output.remove()
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._spare.release()

    def attach(self, suffix: str, data: Content) -> None:
        """Write ``PATH`` + ``suffix``."""
        self._for_attachments.release()
        write_file(self.place + suffix, data)

    def close(self) -> None:
        """Let go of the room for attachments."""
        self._for_attachments.release()


def check_names(path: Path, options: Options) -> None:
    """See that what is going to be written can be created; raises `UsageError` and `NotPermitted`."""
    if options.split:
        check_pieces(path, options.split, options.size)
    else:
        refuse_existing(str(path))
        refuse_existing(f"{path}.part")
    _check_attachments(path, options)
    if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
        raise UsageError(f"{path.parent}: is a read-only file system; name another folder")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise NotPermitted(f"{path.parent}: no file may be created there; name another folder")


def _check_attachments(path: Path, options: Options) -> None:
    """See that all that is to stand beside the image can; it has the longest names."""
    with contextlib.suppress(OSError, ValueError):
        longest = (
            os.pathconf(path.parent, "PC_NAME_MAX")
            - max(map(len, (*options.attachments, ".000")))
            - len(".part")
        )
        if len(os.fsencode(path.name)) > longest:
            raise UsageError(
                f"{path}: is too long a name; {longest} bytes leave room for what stands beside it"
            )
    for suffix in options.attachments:
        refuse_existing(f"{path}{suffix}")
        refuse_existing(f"{path}{suffix}.part")


def _create(path: Path, options: Options) -> Union[Output, SplitFile]:
    if options.split:
        return SplitFile(path, options.split, options.size)
    return Output(path, keep_partial=True, durable=not options.hasty)


def _reserve(options: Options, free: Optional[int]) -> int:
    """Choose how much to keep free: no room that the image would find enough in without it."""
    if free is None or free < options.size:
        return options.reserve
    return min(options.reserve, free - options.size)
