"""The stack behind a jump into nowhere: the processor is where no code is, so nothing says how to go on.

A call leaves the address to return to, on x86-64 on top of the stack, on arm64 in register x30: from there on
the stack can be unwound.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import drgn

from memdump.crash.core import EXECUTE
from memdump.crash.program import FAULTS
from memdump.crash.registers import AARCH64, X86_64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memdump.crash.program import CrashProgram


def return_address(program: CrashProgram, registers: Mapping[str, int]) -> int | None:
    """Where the call that led here returns to; None where there is no code either."""
    if program.core.architecture in ("x86_64", "i686"):
        found = program.word(registers.get("rsp", registers.get("esp", 0)))
    else:
        found = registers.get("x30", registers.get("lr"))
    region = program.core.region(found) if found else None
    return found if region and region.flags & EXECUTE else None


def caller(program: CrashProgram, registers: Mapping[str, int], address: int) -> Any:
    """The stack from the caller on, as drgn has it; None where it cannot be unwound.

    Its first program counter is one less than ``address``: in the call, not behind it.
    """
    values = {**registers, "rip": address - 1, "pc": address - 1}
    if program.core.architecture == "x86_64":
        values["rsp"] = registers["rsp"] + 8
    return unwound(program, values)


def unwound(program: CrashProgram, values: Mapping[str, int]) -> Any:
    """The stack of a thread that has these registers, as drgn has it; None where it cannot be unwound."""
    names = X86_64 if program.core.architecture == "x86_64" else AARCH64
    order = program.core.order
    words = struct.pack(f"{order}{len(names)}Q", *(values.get(name, 0) for name in names))
    try:
        number = program.drgn.int_type("unsigned long", 8, False)
        members = [drgn.TypeMember(number, name, at * 64) for at, name in enumerate(names)]
        kind = program.drgn.struct_type("pt_regs", len(words), members)
        return program.drgn.stack_trace(drgn.Object.from_bytes_(program.drgn, kind, words))
    except FAULTS:
        return None
