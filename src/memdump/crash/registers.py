"""The registers of a thread as NT_PRSTATUS has them: drgn does not tell all of them of every architecture."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memdump.crash.core import Core

I386 = (
    "ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "fs", "gs", "orig_eax", "eip", "cs",
    "eflags", "esp", "ss",
)  # fmt: skip
"""``arch/x86/include/asm/user32.h``."""
X86_64 = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
    "orig_rax", "rip", "cs", "rflags", "rsp", "ss",
)  # fmt: skip
"""The registers of ``struct pt_regs`` as drgn names them (``arch/x86/include/asm/ptrace.h``)."""
X86_64_SEGMENTS = ("fs.base", "gs.base", "ds", "es", "fs", "gs")
"""What NT_PRSTATUS has behind them (``struct user_regs_struct``)."""
AARCH64 = (*(f"x{number}" for number in range(31)), "sp", "pc", "pstate")
"""``arch/arm64/include/uapi/asm/ptrace.h``."""
ORDERS = {"i686": I386, "x86_64": (*X86_64, *X86_64_SEGMENTS), "aarch64": AARCH64}


def of_thread(core: Core, tid: int) -> dict[str, int]:
    """The registers of a thread; none where the core lacks them, or is of another architecture."""
    content = next((thread.registers for thread in core.threads if thread.tid == tid), b"")
    names = ORDERS.get(core.architecture, ())
    form = struct.Struct(f"{core.order}{len(names)}{'I' if core.bits == 32 else 'Q'}")
    if len(content) < form.size:
        return {}
    return dict(zip(names, form.unpack_from(content), strict=True))
