"""The notes of a core: what is known of the process beside its memory.

Layouts: kernel, ``include/linux/elfcore.h``, ``include/uapi/linux/elfcore.h`` and ``fs/binfmt_elf.c``; for 32
bits, ``include/linux/elfcore-compat.h``.
"""

from __future__ import annotations

import os
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
_END = 0
"""What the last entry of an auxiliary vector is (``AT_NULL``)."""
_NAME, _ARGUMENTS = 16, 80
_OVERFLOW = 65534
"""Stands for a user or group whose number is too large for 16 bits."""
_SIGINFO = 128
"""Bytes of a ``siginfo_t``, of zeros: of what stops a process the kernel keeps none, and nothing ended it."""
_TIMES = 8
"""Of the thread and of its process's children that have ended: seconds and microseconds, four times."""
_TICKS = os.sysconf("SC_CLK_TCK")
"""A second."""


class _Form(NamedTuple):
    """What differs between programs of 32 and of 64 bits."""

    long: str
    status: str
    """Before the registers."""
    behind: str
    """Behind the registers: whether there are others, of floating point."""
    process: str


_FORMS = {
    32: _Form("I", f"=iiihxxIIiiii{_TIMES}i", "=i", f"=bcbbIHHiiii{_NAME}s{_ARGUMENTS}s"),
    64: _Form("Q", f"=iiihxxQQiiii{_TIMES}q", "=ixxxx", f"=bcbbxxxxQIIiiii{_NAME}s{_ARGUMENTS}s"),
}


class Owner(NamedTuple):
    """Whose process it is, and how it was called."""

    uid: int
    gid: int
    command_line: bytes
    """The arguments, each with a zero byte behind it."""


def notes(found: Captured, owner: Owner, mappings: Sequence[Mapping], bits: int = 64) -> bytes:
    """Give all notes, in the order of the kernel's own cores."""
    form = _FORMS[bits]
    first, *others = found.threads
    parts = [
        _status(form, found, first),
        _note(NT_PRPSINFO, _process(form, found, owner)),
        _note(NT_SIGINFO, bytes(_SIGINFO)),
        _note(NT_AUXV, _auxiliary(form, found.auxv)),
        _note(NT_FILE, _files(form, mappings)),
        _more(first),
    ]
    for thread in others:
        parts += [_status(form, found, thread), _note(NT_SIGINFO, bytes(_SIGINFO)), _more(thread)]
    return b"".join(parts)


def _note(kind: int, content: bytes, owner: str = _CORE) -> bytes:
    name = owner.encode("ascii") + b"\0"
    head = struct.pack("=III", len(name), len(content), kind)
    return b"".join((head, name, bytes(-len(name) % 4), content, bytes(-len(content) % 4)))


def _status(form: _Form, found: Captured, thread: Thread) -> bytes:
    """Make the ``elf_prstatus`` of a thread, as ``fill_prstatus`` does."""
    stat = found.stat
    waiting, blocked = (_first_signals(form, bits) for bits in (thread.pending, thread.blocked))
    times = (thread.utime, thread.stime, stat.children_utime, stat.children_stime)
    content = struct.pack(
        form.status,
        thread.signal,
        0,
        0,
        thread.signal,
        waiting,
        blocked,
        thread.tid,
        stat.parent,
        stat.group,
        stat.session,
        *(part for ticks in times for part in (ticks // _TICKS, ticks % _TICKS * 1_000_000 // _TICKS)),
    )
    has_floating_point = struct.pack(form.behind, 1)
    return _note(NT_PRSTATUS, content + thread.registers + has_floating_point)


def _first_signals(form: _Form, bits: int) -> int:
    """Give as many signals as there is room for."""
    (found,) = struct.unpack_from(f"={form.long}", struct.pack("<Q", bits))
    return int(found)


def _more(thread: Thread) -> bytes:
    return b"".join(_note(kind, content, owner) for kind, owner, content in thread.more)


def _process(form: _Form, found: Captured, owner: Owner) -> bytes:
    """Make the ``elf_prpsinfo``."""
    stat = found.stat
    # It stood while it was asked, for us alone.
    state = "R" if stat.state == "t" else stat.state
    number = _STATES.find(state)
    arguments = owner.command_line.replace(b"\0", b" ")
    uid, gid = owner.uid, owner.gid
    if form is _FORMS[32]:
        uid, gid = (_OVERFLOW if number >> 16 else number for number in (uid, gid))
    return struct.pack(
        form.process,
        max(number, 0),
        state.encode("ascii"),
        state == "Z",
        max(min(stat.nice, 19), -20),
        stat.flags,
        uid,
        gid,
        found.pid,
        stat.parent,
        stat.group,
        stat.session,
        stat.comm[: _NAME - 1],
        arguments[: _ARGUMENTS - 1],
    )


def _auxiliary(form: _Form, vector: bytes) -> bytes:
    """Cut the auxiliary vector where it ends: the kernel shows more of the room that it stands in."""
    pair = struct.Struct(f"=2{form.long}")
    for at in range(0, len(vector) - pair.size + 1, pair.size):
        if pair.unpack_from(vector, at)[0] == _END:
            return vector[: at + pair.size]
    return vector


def _files(form: _Form, mappings: Sequence[Mapping]) -> bytes:
    """Say which file is behind which addresses."""
    files = [found for found in mappings if found.of_file and found.path.startswith(b"/")]
    head, entry = f"=2{form.long}", f"=3{form.long}"
    parts = [struct.pack(head, len(files), PAGE_SIZE)]
    parts += [struct.pack(entry, found.start, found.end, found.offset // PAGE_SIZE) for found in files]
    parts += [found.path + b"\0" for found in files]
    return b"".join(parts)
