"""The bytes of a dump's file: mapped, so that nothing is read before it is needed and nothing is copied."""

from __future__ import annotations

import mmap
import os
import stat
from typing import TYPE_CHECKING, Any, Protocol

from memdump.errors import NotADump, NotPermitted
from memdump.machine import secret

if TYPE_CHECKING:
    import struct
    from pathlib import Path


class Damaged(LookupError):
    """A part of the content cannot be had: the first such part of what was asked for."""

    def __init__(self, offset: int, size: int) -> None:
        super().__init__(f"{size} bytes at offset {offset:#x} are damaged")
        self.offset = offset
        self.size = size


class Content(Protocol):
    """Bytes that are sliced like a `bytes` object: a map of the file, or a file put together from pieces."""

    def __getitem__(self, where: slice, /) -> bytes:
        """Give a slice; a content that is not simply mapped raises `Damaged` where it cannot."""

    def __len__(self) -> int: ...

    def close(self) -> None:
        """Unmap and close the file."""


def open_content(path: Path) -> mmap.mmap:
    """Map a file; raises `NotADump` where it is no file or empty, `NotPermitted` where it may not be read."""
    try:
        # Checked before it is opened, since opening a device can already do something; O_NONBLOCK because
        # what was checked may have become a pipe by then.
        _check(path, path.stat())
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError:
        raise NotPermitted(f"{path}: may not be read by this user; use sudo or change its mode") from None
    except FileNotFoundError:
        raise NotADump(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise NotADump(f"{path}: cannot be opened: {_reason(error)}") from None
    try:
        _check(path, os.fstat(descriptor))
        mapping = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        if secret.locked:
            secret.let_go_of_files()
        return mapping
    except (OSError, ValueError) as error:
        raise NotADump(
            f"{path}: cannot be mapped ({_reason(error)}); copy it to an ordinary disk first"
        ) from None
    finally:
        os.close(descriptor)


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _check(path: Path, status: os.stat_result) -> None:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise NotADump(f"{path}: is a folder; give the image file in it")
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        raise NotADump(f"{path}: is a pipe; an image is read here and there, so save it to a file first")
    if not stat.S_ISREG(mode):
        raise NotADump(f"{path}: is a device; take its memory with `memdump acquire`, or copy it to a file")
    if str(path.absolute()) == "/proc/kcore":
        raise NotADump(f"{path}: is the memory of this machine; take it with `memdump acquire`")
    if status.st_size == 0:
        raise NotADump(f"{path}: is empty; the dump was never written, take it again")


def unpack(content: Content, layout: struct.Struct, offset: int) -> tuple[Any, ...] | None:
    """Give the fields of a structure, or nothing where the file ends before it does or is damaged there."""
    try:
        taken = content[offset : offset + layout.size]
    except Damaged:
        return None
    return layout.unpack(taken) if len(taken) == layout.size else None
