"""Signal frames of x86-64, as ``rt_sigreturn`` reads them.

Layouts: kernel, ``arch/x86/include/uapi/asm/sigcontext.h``, ``include/uapi/asm-generic/ucontext.h``; what is
done with them: ``arch/x86/kernel/signal_64.c``, ``arch/x86/kernel/fpu/signal.c``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from memdump.process import ptrace
from memdump.process.architecture import X86_64

if TYPE_CHECKING:
    from collections.abc import Sequence

_NT_X86_XSTATE, _NT_X86_SHSTK = 0x202, 0x204
_FRAME = struct.Struct("<Q QQ QiiQ 18Q 4H 4Q Q 8Q Q")
_ORDER = (9, 8, 7, 6, 3, 2, 1, 0, 14, 13, 4, 5, 12, 10, 11, 19, 16, 18)
"""The registers of a frame, by their positions in ``NT_PRSTATUS``."""
_CS, _SS = 17, 20
_FLAGS = 0x6
"""``UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS``: the stack segment is restored as it stands here."""
_NO_STACK = 7
"""Flags of an alternate signal stack that the kernel refuses: the thread keeps the one that it has."""
FIRST_ARGUMENT = 48 + 8 * _ORDER.index(X86_64.arguments[0])
"""Where in a frame the first argument of a system call is."""

_FEATURES, _PRESENT, _LEAST = 464, 512, 576
"""Where an ``NT_X86_XSTATE`` tells what the processor has, and what of it is used; its least size."""
_TILES, _TILES_SIZE = 1 << 18, 8192
"""AMX, which a program has to ask for: before that, its frames have no room for it."""
_MAGIC, _END_MAGIC = 0x46505853, 0x46505845
_ALIGNMENT = 64


def extended(tid: int) -> bytes:
    """Read what a frame has of a thread's registers beyond the general ones.

    Raises ``OSError``, and ``ValueError`` where no frame restores them all.
    """
    try:
        ptrace.registers(tid, _NT_X86_SHSTK)
    except OSError:
        return floating_point(ptrace.registers(tid, _NT_X86_XSTATE))
    raise ValueError("it has a shadow stack, which no frame restores")


def floating_point(content: bytes) -> bytes:
    """Make of ``NT_X86_XSTATE`` what stands in a frame; raises ``ValueError`` where it is too short."""
    size = len(content)
    if size >= _LEAST:
        features, present = (struct.unpack_from("<Q", content, at)[0] for at in (_FEATURES, _PRESENT))
        if features & _TILES & ~present:
            features &= ~_TILES
            size -= _TILES_SIZE
    if size < _LEAST:
        raise ValueError("its floating point state is too short")
    told = struct.pack("<IIQI28x", _MAGIC, size + 4, features, size)
    return content[:_FEATURES] + told + content[_PRESENT:size] + struct.pack("<I", _END_MAGIC)


def frame(top: int, back: int, words: Sequence[int], blocked: int, state: bytes = b"") -> tuple[int, bytes]:
    """Give the address of a frame that ends below ``top``, and all that stands from there to ``top``.

    A thread is to have these registers, to block these signals, and to have the `extended` state, if any.
    """
    at = (top - len(state)) & -_ALIGNMENT if state else top
    stack, segments = (0, _NO_STACK, 0, 0), (words[_CS], 0, 0, words[_SS])
    registers = (words[index] for index in _ORDER)
    content = _FRAME.pack(
        back,
        _FLAGS | bool(state),
        0,
        *stack,
        *registers,
        *segments,
        *[0] * 4,
        at if state else 0,
        *[0] * 8,
        blocked,
    )
    return at - _FRAME.size, content + state + bytes(top - at - len(state))
