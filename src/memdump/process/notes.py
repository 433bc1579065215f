"""The notes of a core: what is known of the process beside its memory.

Layouts: kernel, ``include/linux/elfcore.h``, ``include/uapi/linux/elfcore.h`` and ``fs/binfmt_elf.c``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from memdump.machine.host import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdump.process.capture import Captured, Thread
    from memdump.process.maps import Mapping

NT_PRSTATUS, NT_PRPSINFO, NT_AUXV = 1, 3, 6
NT_SIGINFO, NT_FILE = 0x53494749, 0x46494C45
_CORE = "CORE"
_STATES = "RSDTZW"
_NAME, _ARGUMENTS = 16, 80
_TIMES = 8
"""Of the thread and of its children that have ended: seconds and microseconds, four times."""


class Owner(NamedTuple):
    """Whose process it is, and how it was called."""

    uid: int
    gid: int
    command_line: bytes
    """The arguments, each with a zero byte behind it."""


def notes(found: Captured, owner: Owner, mappings: Sequence[Mapping]) -> bytes:
    """Give all notes, in the order of the kernel's own cores."""
    first, *others = found.threads
    parts = [
        _status(found, first),
        _note(NT_PRPSINFO, _process(found, owner)),
        _note(NT_SIGINFO, first.information),
        _note(NT_AUXV, found.auxv),
        _note(NT_FILE, _files(mappings)),
        _more(first),
    ]
    for thread in others:
        parts += [_status(found, thread), _note(NT_SIGINFO, thread.information), _more(thread)]
    return b"".join(parts)


def _note(kind: int, content: bytes, owner: str = _CORE) -> bytes:
    name = owner.encode("ascii") + b"\0"
    head = struct.pack("=III", len(name), len(content), kind)
    return b"".join((head, name, bytes(-len(name) % 4), content, bytes(-len(content) % 4)))


def _status(found: Captured, thread: Thread) -> bytes:
    """Make the ``elf_prstatus`` of a thread."""
    stat = found.stat
    content = struct.pack(
        f"=iiihxxQQiiii{_TIMES}q",
        thread.signal,
        0,
        0,
        thread.signal,
        0,  # signals that wait
        thread.blocked,
        thread.tid,
        stat.parent,
        stat.group,
        stat.session,
        *[0] * _TIMES,
    )
    has_floating_point = struct.pack("=ixxxx", 1)
    return _note(NT_PRSTATUS, content + thread.registers + has_floating_point)


def _more(thread: Thread) -> bytes:
    return b"".join(_note(kind, content, owner) for kind, owner, content in thread.more)


def _process(found: Captured, owner: Owner) -> bytes:
    """Make the ``elf_prpsinfo``."""
    stat = found.stat
    # It stood while it was asked, for us alone.
    state = "R" if stat.state == "t" else stat.state
    number = _STATES.find(state)
    arguments = owner.command_line.replace(b"\0", b" ")
    return struct.pack(
        f"=bcbbxxxxQIIiiii{_NAME}s{_ARGUMENTS}s",
        max(number, 0),
        state.encode("ascii"),
        state == "Z",
        max(min(stat.nice, 19), -20),
        stat.flags,
        owner.uid,
        owner.gid,
        found.pid,
        stat.parent,
        stat.group,
        stat.session,
        stat.comm[: _NAME - 1],
        arguments[: _ARGUMENTS - 1],
    )


def _files(mappings: Sequence[Mapping]) -> bytes:
    """Say which file is behind which addresses."""
    files = [found for found in mappings if found.of_file and found.path.startswith(b"/")]
    parts = [struct.pack("=QQ", len(files), PAGE_SIZE)]
    parts += [struct.pack("=QQQ", found.start, found.end, found.offset // PAGE_SIZE) for found in files]
    parts += [found.path + b"\0" for found in files]
    return b"".join(parts)
