"""The few system calls that the scenario needs and Python 3.11 does not offer."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

# include/uapi/linux/sched.h
CLONE_VFORK = 0x00004000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_PR_SET_NAME = 15  # include/uapi/linux/prctl.h
_SYS_CLONE = 56  # arch/x86/entry/syscalls/syscall_64.tbl


def _check(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def set_name(name: bytes) -> None:
    """Name the calling thread; the kernel keeps 15 bytes."""
    _check(_libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0))


def arguments() -> tuple[int, int]:
    """Where the command line begins and ends: arg_start and arg_end, fields 48 and 49 of proc(5)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[45]), int(fields[46])


def set_command_line(line: bytes) -> None:
    """Overwrite what the process was started with, as servers do, and intruders; what is longer is cut."""
    begin, end = arguments()
    ctypes.memmove(begin, line[: end - begin].ljust(end - begin, b"\0"), end - begin)


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags))


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    arguments = (ctypes.c_char_p(text.encode()) for text in (source, target, kind))
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), ctypes.c_char_p(data.encode())))


def sethostname(name: bytes) -> None:
    _check(_libc.sethostname(name, len(name)))


def fork_and_stand_still() -> int:
    """Fork as ``vfork`` does: the caller sleeps uninterruptibly (state D) until the child execs or ends."""
    zero = ctypes.c_ulong(0)
    return _check(
        _libc.syscall(ctypes.c_long(_SYS_CLONE), ctypes.c_ulong(CLONE_VFORK | 17), zero, zero, zero, zero)
    )


def shared_memory(size: int) -> int:
    """Attach a new System V segment and return its identifier."""
    _libc.shmat.restype = ctypes.c_void_p
    identifier = _check(_libc.shmget(ctypes.c_int(0), ctypes.c_size_t(size), ctypes.c_int(0o1600)))
    address = _libc.shmat(identifier, None, 0)
    ctypes.memset(address, 0x53, size)
    return identifier
