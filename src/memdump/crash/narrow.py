"""Programs of 32 bits: drgn knows their memory and symbols, but neither their registers nor how to unwind."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memdump.crash.core import Core

I386 = (
    "ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "fs", "gs", "orig_eax", "eip", "cs",
    "eflags", "esp", "ss",
)  # fmt: skip
"""The registers of NT_PRSTATUS in their order (``arch/x86/include/asm/user32.h``)."""
PC, SP = "eip", "esp"
NOT_UNWOUND = (
    "stacks of 32-bit programs are not unwound: only where each thread was is told; gdb shows who called"
)


def registers(core: Core, tid: int) -> dict[str, int]:
    """The registers of a thread; none where the core lacks them."""
    content = next((thread.registers for thread in core.threads if thread.tid == tid), b"")
    form = struct.Struct(f"{core.order}{len(I386)}I")
    if len(content) < form.size:
        return {}
    return dict(zip(I386, form.unpack_from(content), strict=True))
