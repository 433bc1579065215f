"""Signal frames of arm64, as ``rt_sigreturn`` reads them.

Layouts: kernel, ``arch/arm64/include/uapi/asm/sigcontext.h`` and ``ptrace.h``; what is done with them:
``arch/arm64/kernel/signal.c``.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING

from memdump.process import ptrace
from memdump.process.architecture import NT_ARM_SSVE, NT_ARM_SVE, NT_FPREGSET

if TYPE_CHECKING:
    from collections.abc import Sequence

_NT_ARM_ZA, _NT_ARM_GCS = 0x40C, 0x410
_FRAME = struct.Struct("<128x QQ QiiQ Q120x8x Q 34Q 8x")
"""``struct rt_sigframe`` up to its records; the registers are those of ``NT_PRSTATUS``."""
_NO_STACK = 7
"""Flags of an alternate signal stack that the kernel refuses: the thread keeps the one that it has."""
FIRST_ARGUMENT = 312
"""Where in a frame the first argument of a system call is."""

_VECTORS = 512
"""Bytes of V0 to V31, behind which ``NT_FPREGSET`` has FPSR and FPCR."""
_RECORD, _FLOATING, _SCALABLE = struct.Struct("<II"), 0x46508001, 0x53564501
"""What a record begins with, its kind and its size; the kinds of records."""
_ROOM = 4096
"""Bytes for records that every frame has: enough for vectors of 64 bytes."""
_HEADER = struct.Struct("<IIHHHH")
"""``struct user_sve_header``."""
_IS_SCALABLE = 1
"""Of its flags: the registers are those of SVE."""
_END = bytes(16)
_ALIGNMENT = 16


def extended(tid: int) -> bytes:
    """Read what a frame has of a thread's registers beyond the general ones.

    Raises ``OSError``, and ``ValueError`` where no frame restores them all.
    """
    if any(len(_content(tid, kind)) > _HEADER.size for kind in (NT_ARM_SSVE, _NT_ARM_ZA)):
        raise ValueError("it uses SME")
    if any(_content(tid, _NT_ARM_GCS)[:8]):
        raise ValueError("it has a shadow stack, which no frame restores")
    return records(ptrace.registers(tid, NT_FPREGSET), _content(tid, NT_ARM_SVE))


def _content(tid: int, kind: int) -> bytes:
    with contextlib.suppress(OSError):  # a set that this processor has not
        return ptrace.registers(tid, kind)
    return b""


def records(floating: bytes, scalable: bytes) -> bytes:
    """Make of ``NT_FPREGSET`` and ``NT_ARM_SVE`` the records of a frame, or raise ``ValueError``."""
    if len(floating) < _VECTORS + 8:
        raise ValueError("its floating point state is too short")
    made = _record(_FLOATING, floating[_VECTORS : _VECTORS + 8] + floating[:_VECTORS])
    if len(scalable) > _HEADER.size:
        _, _, length, _, flags, _ = _HEADER.unpack_from(scalable)
        if flags & _IS_SCALABLE:
            size = 32 * length + 17 * length // 8  # Z0 to Z31, P0 to P15 and FFR
            registers = scalable[_HEADER.size : _HEADER.size + size]
            if len(registers) < size:
                raise ValueError("its vectors are too short")
            made += _record(_SCALABLE, struct.pack("<H6x", length) + registers)
    if len(made) + len(_END) > _ROOM:
        raise ValueError("its vectors are too long")
    return made + _END


def _record(kind: int, content: bytes) -> bytes:
    size = (_RECORD.size + len(content) + _ALIGNMENT - 1) & -_ALIGNMENT
    return (_RECORD.pack(kind, size) + content).ljust(size, b"\0")


_NOTHING = records(bytes(_VECTORS + 8), b"")


def frame(
    top: int, back: int, words: Sequence[int], blocked: int, state: bytes = _NOTHING
) -> tuple[int, bytes]:
    """Give the address of a frame that ends below ``top``, and all that stands from there to ``top``.

    A thread is to have these registers, to block these signals, and to have the `extended` state.  Where it
    goes ``back`` to stands in a register, not here.
    """
    del back
    content = _FRAME.pack(0, 0, 0, _NO_STACK, 0, 0, blocked, 0, *words) + state
    at = (top - len(content)) & -_ALIGNMENT
    return at, content.ljust(top - at, b"\0")
