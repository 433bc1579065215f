"""The fault that a handler of the program was called for, where the handler then ended the program.

The core says only what ended it: SIGABRT, or the signal that the handler sent again.  What the kernel knew of
the fault is in the frame that it put on a stack for the handler: all registers, what the processor said, and
``siginfo_t`` where the handler asked for it (SA_SIGINFO).  It stays there after the handler returned, too.

    x86-64: struct rt_sigframe  { pretcode; ucontext; siginfo }  (arch/x86/include/asm/sigframe.h)
    arm64:  struct rt_sigframe  { siginfo; ucontext }            (arch/arm64/kernel/signal.c)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from memdump.crash import instructions, notes, signals
from memdump.crash.core import WRITE
from memdump.crash.notes import SignalInfo
from memdump.crash.program import FAULTS, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.crash.program import CrashProgram

MOST_FRAMES = 4096
MOST_INTERRUPTED = 8
SIGINFO = 128
SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV = notes.FAULTS
PAGE_FAULT = 14
TRAPS = {0: (SIGFPE, 1), 3: (SIGTRAP, signals.SI_KERNEL), 6: (SIGILL, 2), 13: (SIGSEGV, signals.SI_KERNEL)}
"""Of x86: the signal and code of a trap (``arch/x86/kernel/traps.c``)."""


class Layout(NamedTuple):
    """Where things are in the kernel's frame, from the saved stack pointer on; the saved pc is behind it."""

    registers: int
    names: tuple[str, ...]
    information: int
    mode: int
    """A word that says in its lowest bits in which mode the processor was."""
    mask: int
    user: int
    """What it says of code of a process."""
    address: int
    """The address of the last fault of the thread."""
    trap: int | None
    """Which trap the last fault was."""


LAYOUTS = {
    "x86_64": Layout(
        -120,
        (
            "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax",
            "rcx", "rsp", "rip", "rflags",
        ),
        144, 24, 0xFFFF, 0x33, 56, 40,
    ),
    "aarch64": Layout(
        -248, (*(f"x{number}" for number in range(31)), "sp", "pc", "pstate"), -560, 16, 0xF, 0, -256, None
    ),
}  # fmt: skip
"""``struct sigcontext`` of ``arch/*/include/uapi/asm/sigcontext.h``."""
FROM_START_ARM64 = 128 + 176 + 256
"""The saved stack pointer, from the beginning of the frame on, where the handler begins on arm64."""


@dataclass(frozen=True, slots=True)
class Handled:
    """A fault that a handler was called for."""

    signal: SignalInfo
    frame: int
    """Which frame of the thread's stack it interrupted."""
    registers: dict[str, int]


def handled(
    program: CrashProgram, trace: Any, registers: dict[str, int], *, returned: bool
) -> Handled | None:
    """The first fault that a thread had, if a handler was called for it; None where there was none.

    ``registers`` are those of the thread now; those that the frame lacks are taken from there.  The handler
    has not returned, or with ``returned`` it may also have, to where the thread is now.
    """
    layout = LAYOUTS.get(program.core.architecture)
    if layout is None or trace is None:
        return None
    for number, pc, sp in reversed(_interrupted(trace)[0 if returned else 1 :]):
        for at in _places(program, struct.pack(f"{program.core.order}2Q", sp, pc), sp):
            saved = _saved(program, layout, at)
            if saved is None:
                continue
            found = {**registers, **saved}
            signal = _information(program, layout, at) or _last_fault(program, layout, at, pc, found)
            if signal:
                return Handled(signal, number, found)
    return None


def saved_arm64(program: CrashProgram, sp: int) -> dict[str, int] | None:
    """The registers of what a handler interrupted, of which the frame is at ``sp``; None if there is none."""
    return _saved(program, LAYOUTS["aarch64"], sp + FROM_START_ARM64)


def _interrupted(trace: Any) -> list[tuple[int, int, int]]:
    """Frames that a signal interrupted, from the innermost on: their number, pc and stack pointer."""
    found: dict[tuple[int, int], int] = {}
    for number, frame in zip(range(MOST_FRAMES), trace, strict=False):
        if len(found) == MOST_INTERRUPTED:
            break
        try:
            if frame.interrupted:
                found.setdefault((int(frame.pc), int(frame.sp)), number)
        except FAULTS:
            continue
    return [(number, pc, sp) for (pc, sp), number in found.items()]


def _places(program: CrashProgram, wanted: bytes, sp: int) -> Iterator[int]:
    """Where in memory that can be written to these bytes are; on the stack that ``sp`` is on first.

    A handler may have a stack of its own anywhere.
    """
    regions = [region for region in program.core.regions if region.flags & WRITE and region.saved]
    regions.sort(key=lambda one: (not one.start <= sp < one.end, one.saved))
    for start, data in pieces(program, regions, len(wanted)):
        yield from _within(data, start, wanted)


def _within(data: bytes, start: int, wanted: bytes) -> Iterator[int]:
    at = data.find(wanted)
    while at >= 0:
        yield start + at
        at = data.find(wanted, at + 1)


def _saved(program: CrashProgram, layout: Layout, at: int) -> dict[str, int] | None:
    """The registers of the frame whose saved stack pointer is at ``at``; None if it is none."""
    mode = program.word(at + layout.mode)
    data = program.read(at + layout.registers, 8 * len(layout.names))
    if mode is None or mode & layout.mask != layout.user or data is None:
        return None
    words = struct.unpack(f"{program.core.order}{len(layout.names)}Q", data)
    return dict(zip(layout.names, words, strict=True))


def _information(program: CrashProgram, layout: Layout, at: int) -> SignalInfo | None:
    """What the kernel told the handler; None where it was not of a fault, or the handler did not ask."""
    data = program.read(at + layout.information, SIGINFO)
    found = notes.parse_signal(data, program.core.order) if data else None
    if data is None or found is None or found.number not in notes.FAULTS or found.sender is not None:
        return None
    known = found.code == signals.SI_KERNEL or found.code in signals.CODES[signals.name(found.number)]
    return found if known and not any(data[4:8]) else None


def _last_fault(
    program: CrashProgram, layout: Layout, at: int, pc: int, registers: dict[str, int]
) -> SignalInfo | None:
    """The last fault of the thread, if it can have been one of the instruction at ``pc``."""
    address, trap = program.word(at + layout.address), PAGE_FAULT
    if layout.trap is not None:
        trap = program.word(at + layout.trap) or 0
    if trap != PAGE_FAULT:
        number, code = TRAPS.get(trap, (0, 0))
        current = instructions.current(program, pc, registers)
        if not number or (number == SIGFPE and not (current and current.divides)):
            return None
        return SignalInfo(number, code, None if code == signals.SI_KERNEL else pc)
    if address is None or not _uses(program, pc, registers, address):
        return None
    return SignalInfo(SIGSEGV, 1 if program.core.region(address) is None else 2, address)


def _uses(program: CrashProgram, pc: int, registers: dict[str, int], address: int) -> bool:
    """Whether the instruction at ``pc`` uses memory at ``address``, or is there itself."""
    current = instructions.current(program, pc, registers)
    accesses = current.accesses if current else ()
    return address == pc or any(
        access.address <= address < access.address + max(access.size, 1) for access in accesses
    )
