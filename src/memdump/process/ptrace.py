"""The requests of ``ptrace(2)`` that memdump makes, each raising ``OSError``.

All of them have to come from the one thread that attached.  Numbers: kernel, ``include/uapi/linux/ptrace.h``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from typing import NamedTuple

TRACE_SYSCALLS, TRACE_CLONE, TRACE_KILL = 0x1, 0x8, 0x100000
"""Options: tell system calls from signals; attach to what is cloned; kill when the tracer ends."""
EVENT_CLONE, EVENT_STOP = 3, 128

_CONT, _DETACH, _SYSCALL = 7, 17, 24
_SETOPTIONS, _GETEVENTMSG = 0x4200, 0x4201
_GETREGSET, _SETREGSET, _SEIZE, _INTERRUPT = 0x4204, 0x4205, 0x4206, 0x4207
_PEEKSIGINFO, _GETSIGMASK, _SETSIGMASK, _GET_RSEQ = 0x4209, 0x420A, 0x420B, 0x420F
_SIGINFO, _AT_ONCE = 128, 32
"""Bytes of a ``siginfo_t``, which begins with the signal's number; how many are asked for at once."""
SIGTRAP = int(signal.SIGTRAP)
_WALL = 0x40000000
_LARGEST_SET = 128 << 10
"""Bytes of a set of registers; SME's array makes the largest one, 64 KB and a header."""
_SIZED = (0x405, 0x40B, 0x40C)
"""NT_ARM_SVE, NT_ARM_SSVE and NT_ARM_ZA say first how large they are; behind that the kernel gives zeros."""
_SET = ctypes.create_string_buffer(_LARGEST_SET)
_LIBC = ctypes.CDLL(None, use_errno=True)
_PTRACE = _LIBC.ptrace
_PTRACE.restype = ctypes.c_long
_PTRACE.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class Stop(NamedTuple):
    """What ``waitpid`` told of a thread."""

    ended: bool
    """It is no more."""
    signal: int = 0
    event: int = 0

    @property
    def at_call(self) -> bool:
        """It enters or leaves a system call."""
        return self.signal == SIGTRAP | 0x80

    @property
    def for_us(self) -> bool:
        """It stands because `interrupt` asked for it, or with its whole process because of a signal."""
        return self.event == EVENT_STOP


def _call(request: int, tid: int, address: int = 0, data: object = 0) -> int:
    result: int = _PTRACE(request, tid, address, data)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def seize(tid: int, options: int = TRACE_SYSCALLS) -> None:
    """Attach to a thread, which runs on."""
    _call(_SEIZE, tid, 0, options)


def interrupt(tid: int) -> None:
    """Ask a thread to stop; `wait` tells when it does."""
    _call(_INTERRUPT, tid)


def cont(tid: int, number: int = 0) -> None:
    """Let a thread run on, with the signal that it stopped for."""
    _call(_CONT, tid, 0, number)


def to_call(tid: int, number: int = 0) -> None:
    """Let a thread run to where it enters or leaves a system call, with the signal that it stopped for."""
    _call(_SYSCALL, tid, 0, number)


def detach(tid: int, number: int = 0) -> None:
    """Let a thread run on and leave it alone."""
    _call(_DETACH, tid, 0, number)


def set_options(tid: int, options: int) -> None:
    """Set the options of a thread that stands."""
    _call(_SETOPTIONS, tid, 0, options)


def event_message(tid: int) -> int:
    """Give the number that belongs to an event: for a clone, its process id."""
    value = ctypes.c_ulong()
    _call(_GETEVENTMSG, tid, 0, ctypes.addressof(value))
    return value.value


def registers(tid: int, kind: int) -> bytes:
    """Give a set of registers by the type of its note."""
    vector = _Vector(ctypes.addressof(_SET), _LARGEST_SET)
    _call(_GETREGSET, tid, kind, ctypes.addressof(vector))
    if kind in _SIZED:
        (vector.size,) = struct.unpack_from("=I", _SET)
    return ctypes.string_at(_SET, vector.size)


def set_registers(tid: int, kind: int, content: bytes) -> None:
    """Set a set of registers."""
    buffer = ctypes.create_string_buffer(content, len(content))
    vector = _Vector(ctypes.addressof(buffer), len(content))
    _call(_SETREGSET, tid, kind, ctypes.addressof(vector))


def blocked(tid: int) -> int:
    """Give the signals that a thread blocks, as bits."""
    mask = ctypes.c_uint64()
    _call(_GETSIGMASK, tid, 8, ctypes.addressof(mask))
    return mask.value


def set_blocked(tid: int, mask: int) -> None:
    """Set the signals that a thread blocks."""
    _call(_SETSIGMASK, tid, 8, ctypes.addressof(ctypes.c_uint64(mask)))


def pending(tid: int) -> int:
    """Give the signals that wait for a thread alone, not for any of its process, as bits."""
    buffer = ctypes.create_string_buffer(_SIGINFO * _AT_ONCE)
    mask, seen, count = 0, 0, _AT_ONCE
    while count == _AT_ONCE:
        argument = ctypes.create_string_buffer(struct.pack("=QIi", seen, 0, _AT_ONCE), 16)
        count = _call(_PEEKSIGINFO, tid, ctypes.addressof(argument), ctypes.addressof(buffer))
        for index in range(count):
            mask |= 1 << struct.unpack_from("=i", buffer, index * _SIGINFO)[0] - 1
        seen += count
    return mask


def rseq_area(tid: int) -> int | None:
    """Give the address of a thread's area for restartable sequences; 0 for none, None where unknown.

    From Linux 5.13 on.
    """
    buffer = ctypes.create_string_buffer(24)
    try:
        _call(_GET_RSEQ, tid, 24, ctypes.addressof(buffer))
    except OSError as error:
        if error.errno == errno.EIO:  # an older kernel
            return None
        raise
    address: int = struct.unpack_from("=Q", buffer)[0]
    return address


def wait(tid: int, now: bool = False) -> Stop | None:
    """Wait until a thread stops or ends; None where it has not and it is asked ``now``."""
    try:
        found, status = os.waitpid(tid, _WALL | (os.WNOHANG if now else 0))
    except ChildProcessError:
        return Stop(ended=True)
    if not found:
        return None
    if not os.WIFSTOPPED(status):
        return Stop(ended=True)
    return Stop(False, os.WSTOPSIG(status), status >> 16)
