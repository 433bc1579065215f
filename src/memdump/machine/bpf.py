"""The kernel's bpf(2), by its number: maps and programs from the standard library alone.

Layouts and numbers are those of the kernel's ``include/uapi/linux/bpf.h``, the instruction set is RFC 9669.
"""

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from typing import Callable

from memdump.errors import NotPermitted

Call = Callable[[int, bytearray], int]
"""bpf(2): takes the command and its attributes, which it may change; raises ``OSError``."""

SYSCALL, RAW_TRACEPOINT = 31, 17
"""Types of programs that can be run by hand: since Linux 5.14, and since 5.10."""
NAMES = {SYSCALL: "BPF_PROG_TYPE_SYSCALL", RAW_TRACEPOINT: "BPF_PROG_TYPE_RAW_TRACEPOINT"}

_MAP_CREATE, _PROG_LOAD, _PROG_TEST_RUN = 0, 5, 10
_ARRAY = 2
_MMAPABLE = 1 << 10
_SLEEPABLE = 1 << 4
_LICENSE = b"Dual MIT/GPL"
"""Only programs under the GPL, be it one of several licenses, may read kernel memory."""
_NAME = b"memdump"
_LOG_SIZE = 64 << 10
_TRIES = 5
"""A signal that comes while the kernel checks a program makes it give up; it does not come every time."""
_RESULT = struct.Struct("=i")

_NUMBERS = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64le": 361,
    "ppc64": 361,
    "s390x": 351,
}


def system_call() -> Call:
    """Give bpf(2) of this machine; raises `NotPermitted` where its number is not known."""
    number = _NUMBERS.get(platform.machine())
    if number is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise NotPermitted(f"bpf(2) is not known for programs of this kind on {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_long]
    libc.syscall.restype = ctypes.c_long

    def call(command: int, attributes: bytearray) -> int:
        place = ctypes.addressof(ctypes.c_char.from_buffer(attributes))
        for _ in range(_TRIES):
            result: int = libc.syscall(number, command, place, len(attributes))
            if result >= 0:
                return result
            error = ctypes.get_errno()
            if error not in (errno.EAGAIN, errno.EINTR):
                break
        raise OSError(error, os.strerror(error))

    return call


def instruction(opcode: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """Encode one instruction: 8 bytes, the register numbers in nibbles whose order is the machine's."""
    registers = source << 4 | target if sys.byteorder == "little" else target << 4 | source
    return struct.pack("=BBhi", opcode, registers, offset, value)


def lift_memory_limit() -> bool:
    """Let this process lock as much memory as our maps take, which matters before 5.11; whether it may."""
    wanted = 16 << 20
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return True
    try:
        enough = hard == resource.RLIM_INFINITY or hard >= wanted
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (wanted, hard if enough else wanted))
    except (OSError, ValueError):
        return False
    return True


def create_map(call: Call, size: int) -> int:
    """Make an array of one value of ``size`` bytes, which can be mapped, and give its descriptor."""
    return call(
        _MAP_CREATE, bytearray(struct.pack("=IIIIIII16s", _ARRAY, 4, size, 1, _MMAPABLE, 0, 0, _NAME))
    )


class Refused(OSError):
    """The kernel did not take a program."""

    def __init__(self, error: OSError, log: str) -> None:
        super().__init__(error.errno, error.strerror)
        self.log = log
        """What the kernel's verifier says, many lines."""


class Program:
    """A program that the kernel has checked and taken."""

    def __init__(self, call: Call, kind: int, code: bytes, arguments: int) -> None:
        """Load it; raises `Refused`.  Its context will be so many 64-bit numbers."""
        self._call = call
        try:
            self._descriptor = _load(call, kind, code, bytearray())
        except OSError as error:
            log = bytearray(_LOG_SIZE)
            with contextlib.suppress(OSError):
                os.close(_load(call, kind, code, log))
            raise Refused(error, log.partition(b"\0")[0].decode("utf-8", "backslashreplace")) from None
        self._context = (ctypes.c_uint64 * arguments)()
        size, place = ctypes.sizeof(self._context), ctypes.addressof(self._context)
        layout = "=IIIIQQIIIIQQII"
        fields = (self._descriptor, 0, 0, 0, 0, 0, 0, 0, size, 0, place if size else 0, 0, 0, 0)
        self._attributes = bytearray(struct.pack(layout, *fields))

    def run(self, *arguments: int) -> int:
        """Run it once and give what it returns, as a signed number; raises ``OSError`` if it cannot run."""
        self._context[:] = list(arguments)
        self._call(_PROG_TEST_RUN, self._attributes)
        (result,) = _RESULT.unpack_from(self._attributes, 4)
        return int(result)

    def close(self) -> None:
        """Give it back."""
        os.close(self._descriptor)


def _load(call: Call, kind: int, code: bytes, log: bytearray) -> int:
    program = ctypes.create_string_buffer(code, len(code))
    license_ = ctypes.create_string_buffer(_LICENSE)
    words = (ctypes.c_char * len(log)).from_buffer(log)
    attributes = struct.pack(
        "=IIQQIIQII16s",
        kind,
        len(code) // 8,
        ctypes.addressof(program),
        ctypes.addressof(license_),
        1 if log else 0,
        len(log),
        ctypes.addressof(words) if log else 0,
        0,
        _SLEEPABLE if kind == SYSCALL else 0,
        _NAME,
    )
    return call(_PROG_LOAD, bytearray(attributes))
