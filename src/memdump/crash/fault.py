"""What a fault was about: from the signal, the address, the instruction and the memory map."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memdump.crash import signals
from memdump.crash.core import EXECUTE, READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memdump.crash.core import Core, Region
    from memdump.crash.instructions import Access, Current
    from memdump.crash.notes import SignalInfo

NULL_END = 1 << 16
"""Nothing is ever mapped below (``vm.mmap_min_addr``): an address there is an offset from a NULL pointer."""
OVERRUN = 1 << 16
"""An address so little behind the end of a mapping is taken for a run beyond it."""
STACK_SLACK = 1 << 20
"""A function may reach so far below its stack pointer before the stack has grown."""
CANONICAL_BITS = {"x86_64": 47, "aarch64": 48, "i686": 32}
"""Bits of an address of user space; with five levels of page tables (LA57) x86-64 has 56."""
TAGGED_BITS = 56
LARGEST_VECTOR = 64
TRAPS_OF_COMPILERS = ("brk #0x3e8", "brk #1", "brk #0x1")
"""What gcc and clang make of ``__builtin_trap`` on arm64."""
PROTECTION_KEY, CONTROL_FLOW = 4, 10
GENERAL = re.compile(r"r[a-d]x|r[sd]i|rbp|r\d+|x\d+|e[a-d]x|e[sd]i|ebp")
"""General registers, but the stack pointer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why it crashed."""

    kind: str
    """A word that stays the same in all versions, for programs."""
    text: str
    """A sentence, for people."""
    address: int | None = None
    """The address that could not be used, where there was one."""
    notes: tuple[str, ...] = ()
    """What else is to be said of it."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The thread at the moment of the signal."""

    core: Core
    signal: SignalInfo
    pc: int
    sp: int
    registers: Mapping[str, int]
    instruction: Current | None
    pointer: int | None = None
    """What the instructions before loaded from memory, for this one to use as a pointer, where they tell."""
    caller_sp: int | None = None
    """The stack pointer of the function that called, where the stack can be unwound."""


def judge(moment: Moment) -> Verdict:
    """Say what the signal was about, as far as registers and memory map tell."""
    signal = moment.signal
    if signals.name(signal.number) in signals.STOPPING:
        return Verdict(
            "none", f"it did not crash: {signals.name(signal.number)} had stopped it, and it was alive"
        )
    if signal.sender is not None:
        return _sent(moment)
    by_name = {
        "SIGSEGV": _bad_access,
        "SIGBUS": _bus_error,
        "SIGFPE": _arithmetic,
        "SIGILL": _illegal,
        "SIGTRAP": _trap,
        "SIGSYS": _refused_call,
    }
    found = by_name.get(signals.name(signal.number))
    return found(moment) if found else Verdict("signal", f"ended by {signals.name(signal.number)}")


def _sent(moment: Moment) -> Verdict:
    signal = moment.signal
    name = signals.name(signal.number)
    process = moment.core.process
    if name == "SIGTRAP" and signal.code == 0 and _nothing_has_run(moment):
        # What a debugger is told of with this signal when the program starts (ptrace(2)).
        return Verdict("none", "it did not crash: a debugger had stopped it at its very start")
    if process and signal.sender == process.pid:
        return Verdict("raised", f"the program sent {name} to itself")
    return Verdict(
        "sent", f"nothing failed: process {signal.sender} of user {signal.user} sent {name} to this one"
    )


def _nothing_has_run(moment: Moment) -> bool:
    """Whether the program was not begun yet: the kernel starts it with zeros in the registers."""
    values = [value for name, value in moment.registers.items() if GENERAL.fullmatch(name)]
    return bool(values) and not any(values)


def _bad_access(moment: Moment) -> Verdict:
    address = moment.signal.address
    if moment.signal.code == signals.SI_KERNEL or address is None:
        return _without_address(moment)
    return _at(moment, address)


def _at(moment: Moment, address: int) -> Verdict:
    """What was wrong with an access to ``address``."""
    if found := _stack_overflow(moment, address):
        return found
    if address in (moment.pc, moment.pc & ~0xFFF) and not _readable_code(moment.core, moment.pc):
        return _jump(moment)
    if moment.signal.code == PROTECTION_KEY:
        return Verdict("protection_key", "a protection key of the thread denied the access", address)
    if found := _null(moment, address):
        return found
    access = _access(moment, address)
    if access and (found := _impossible(moment, access)):  # arm64 tells the address of that, too
        return found
    region = moment.core.region(address)
    return _denied(moment, address, region) if region else _unmapped(moment, address)


def _readable_code(core: Core, pc: int) -> bool:
    region = core.region(pc)
    return region is not None and bool(region.flags & EXECUTE)


def _access(moment: Moment, address: int) -> Access | None:
    """What the instruction did at the address, if it is one that it uses."""
    # The kernel of arm64 may leave out the highest byte, which can be a tag.
    bits = TAGGED_BITS if moment.core.architecture == "aarch64" else moment.core.bits
    for access in moment.instruction.accesses if moment.instruction else ():
        if (address - access.address) % (1 << bits) < max(access.size, 1):
            return access
    return None


def _did(moment: Moment, address: int) -> str:
    """``a read of 8 bytes``, or ``an access`` where the instruction does not tell."""
    access = _access(moment, address)
    if access is None:
        return "an access"
    size = f" {access.size} byte{'s' * (access.size != 1)}" if access.size else " memory"
    return f"{'an' if access.verb[0] in 'aeiou' else 'a'} {access.verb}{size}"


def _null(moment: Moment, address: int) -> Verdict | None:
    """An access at NULL, or near to it, or by a pointer that is known to be NULL."""
    did = _did(moment, address)
    access = _access(moment, address)
    base = moment.registers.get(access.base) if access and access.base else None
    through = f"; register {access.base} is 0" if access and base == 0 else ""
    if address == 0:
        return Verdict("null_pointer", f"{did} through a NULL pointer{through}", address)
    below = (1 << moment.core.bits) - address
    if below <= NULL_END:
        return Verdict(
            "null_pointer",
            f"{did} at offset -{below} from a NULL pointer, or through a result such as MAP_FAILED (-1) that"
            " was not checked",
            address,
        )
    if address >= NULL_END and (address >> moment.core.bits // 2 or 0 not in (base, moment.pointer)):
        return None
    return Verdict(
        "null_pointer",
        f"{did} through a NULL pointer, at offset {address} ({address:#x}) of a field or element{through}",
        address,
    )


def _jump(moment: Moment) -> Verdict:
    pc = moment.pc
    region = moment.core.region(pc)
    if pc == 0:
        return Verdict("null_call", "a call or jump through a NULL pointer to a function", pc)
    if pc < NULL_END:
        return Verdict("null_call", f"a call or jump to {pc:#x}, an offset from a NULL pointer", pc)
    if region is None:
        return Verdict(
            "wild_jump",
            f"a call, return or jump to {pc:#x}, where nothing is mapped: a bad pointer or return address",
            pc,
            _as_text(pc),
        )
    return Verdict(
        "jump_to_data",
        f"a call, return or jump into memory that is not executable: {region.name} ({region.access})",
        pc,
    )


def _stack_overflow(moment: Moment, address: int) -> Verdict | None:
    """Whether the stack ran out: the access is at the stack pointer, below a stack."""
    core, sp = moment.core, moment.sp
    if not (sp - STACK_SLACK <= address <= sp + STACK_SLACK):
        return None
    at = core.region(address)
    if at is not None and at.flags & (READ | WRITE):
        return None
    _, above = core.neighbours(address if at is None else at.end - 1)
    if above is None or above.flags & WRITE == 0:
        return None
    near = above.start - address <= STACK_SLACK and abs(sp - above.start) <= STACK_SLACK
    if not near and not _called_from(moment, above):
        return None
    where = "in the guard page below it" if at is not None else "right below it" if near else "far below it"
    size = above.end - above.start
    return Verdict(
        "stack_overflow",
        f"the stack of the thread ran out: {_did(moment, address)} {where}; it has {size >> 10} KiB",
        address,
        () if near else ("the function has larger variables on the stack than there was room left",),
    )


def _called_from(moment: Moment, stack: Region) -> bool:
    """Whether the stack pointer went below a mapping in one step: the caller's is still in it."""
    caller = moment.caller_sp
    return caller is not None and moment.sp < stack.start <= caller <= stack.end


def _denied(moment: Moment, address: int, region: Region) -> Verdict:
    did = _did(moment, address)
    access = _access(moment, address)
    where = f"{region.name} ({region.access})"
    if not region.flags & (READ | WRITE | EXECUTE):
        return Verdict(
            "no_access", f"{did} in memory that allows no access, as guard pages do: {where}", address
        )
    if not region.flags & WRITE and (access is None or access.writes):
        return Verdict("write_to_read_only", f"{did} in memory that is read-only: {where}", address)
    if moment.signal.code == 1:
        return Verdict("no_access", f"{did} in {where}, of which this part was not mapped", address)
    return Verdict("no_access", f"{did} in memory that does not allow it: {where}", address)


def _unmapped(moment: Moment, address: int) -> Verdict:
    did = _did(moment, address)
    below, above = moment.core.neighbours(address)
    if below and below.flags & WRITE and address - below.end < OVERRUN and _runs(moment, address, below):
        behind = f"{address - below.end} bytes" if address > below.end else "right"
        return Verdict(
            "overrun",
            f"{did} {behind} behind the end of {below.name}: a loop or copy that ran on",
            address,
        )
    notes = list(_as_text(address))
    if below is None and not address >> moment.core.bits // 2:
        notes.append("so low an address is an offset from a NULL pointer, or a number taken for a pointer")
    for region, far, side in (
        (below, address - below.end if below else 0, "behind"),
        (above, above.start - address if above else 0, "in front of"),
    ):
        if region and far < 1 << 30:
            notes.append(f"{far:#x} bytes {side} {region.name}")
    return Verdict(
        "unmapped",
        f"{did} where nothing is mapped: memory that was freed or unmapped, or a damaged pointer",
        address,
        tuple(notes),
    )


def _runs(moment: Moment, address: int, below: Region) -> bool:
    """Whether it looks like a run beyond a mapping: the access is at its end, or a register is inside it."""
    access = _access(moment, address)
    if address - below.end < 64:
        return True
    base = moment.registers.get(access.base) if access else None
    return base is not None and below.start <= base < below.end


def _without_address(moment: Moment) -> Verdict:
    """The signal has no address: a general protection fault of x86, or a core that lacks what was wrong."""
    if not _readable_code(moment.core, moment.pc):
        return _jump(moment)
    accesses = moment.instruction.accesses if moment.instruction else ()
    for found in (_bad_target(moment), *(_impossible(moment, access) for access in accesses)):
        if found:
            return found
    for access in accesses:
        if not _allowed(moment.core, access):
            # A general protection fault has other causes: this one came from the page tables, but when the
            # kernel cannot call the handler, it sends the signal anew (force_sigsegv of kernel/signal.c).
            found = _at(moment, access.address)
            return replace(found, notes=(*found.notes, *_no_room(moment)))
    for access in accesses:
        if 16 <= access.size <= LARGEST_VECTOR and access.address % access.size:
            return Verdict(
                "misaligned",
                f"{_did(moment, access.address)} at an address that is no multiple of {access.size}, which"
                f" this instruction wants",
                access.address,
            )
    what = f": {moment.instruction.text}" if moment.instruction else ""
    if moment.signal.code is None:
        return Verdict("unknown", f"a bad access, but the core lacks what was wrong with it{what}")
    return Verdict(
        "protection_fault", f"the processor refused an instruction that programs may not execute{what}"
    )


def _no_room(moment: Moment) -> tuple[str, ...]:
    if moment.signal.code != signals.SI_KERNEL:
        return ()
    return ("a handler is set for the signal, but it could not run: the stack has no room for it",)


def _allowed(core: Core, access: Access) -> bool:
    """Whether the memory map lets an instruction do what it does."""
    region = core.region(access.address)
    wanted = (READ if access.reads else 0) | (WRITE if access.writes else 0)
    return region is not None and region.flags & wanted == wanted


def _bad_target(moment: Moment) -> Verdict | None:
    """A return, call or jump to what can be no address; x86 faults before it goes there."""
    transfer = moment.instruction.transfer if moment.instruction else None
    if transfer is None or not transfer.target >> _bits(moment.core):
        return None
    if transfer.verb == "return":
        text = (
            f"the function returns to {transfer.target:#x}, which can be no address: its return address was"
            " overwritten, as by a write beyond a local variable"
        )
    else:
        text = (
            f"a {transfer.verb} to {transfer.target:#x}, which can be no address: the pointer to the function"
            " was overwritten or never set"
        )
    return Verdict("wild_jump", text, transfer.target, _as_text(transfer.target))


def _impossible(moment: Moment, access: Access) -> Verdict | None:
    """An access to what can be no address."""
    if not access.address >> _bits(moment.core):
        return None
    return Verdict(
        "non_canonical",
        f"{_did(moment, access.address)} at {access.address:#x}, which can be no address: the pointer was"
        " overwritten or never set",
        access.address,
        _as_text(access.address),
    )


def _bits(core: Core) -> int:
    return CANONICAL_BITS.get(core.architecture, 47)


def _as_text(address: int) -> tuple[str, ...]:
    """Note an address that is really text: a string was written over the pointer."""
    data = address.to_bytes(8, "little").rstrip(b"\0")
    if len(data) >= 5 and all(0x20 <= byte < 0x7F for byte in data):
        return (f"the address is the text {data.decode()!r}: a string was written over the pointer",)
    return ()


def _bus_error(moment: Moment) -> Verdict:
    signal, address = moment.signal, moment.signal.address
    at = address or 0
    region = moment.core.region(at)
    if signal.code == 1:
        accesses = moment.instruction.accesses if moment.instruction else ()
        for access in accesses:
            if not at and access.size and access.address % access.size:
                at = access.address  # x86 does not tell the address
        return Verdict("misaligned", f"{_did(moment, at)} at an address that is not aligned for it", at)
    if signal.code == 2:
        what = f"in the file {region.file}" if region and region.file else "in a mapping"
        return Verdict(
            "file_shortened",
            f"{_did(moment, at)} {what}, where the file has ended or cannot be read: it was shortened while"
            " it was mapped, its disk is full or fails, or huge pages ran out",
            address,
        )
    if signal.code in (4, 5):
        return Verdict("broken_memory", "the hardware found the memory broken at this address", address)
    return Verdict("bus_error", "an access that the bus or the kernel refused", address)


def _arithmetic(moment: Moment) -> Verdict:
    current = moment.instruction
    address = moment.signal.address
    if moment.signal.code == 1:
        if current and current.divides and current.divisor not in (0, None):
            return Verdict(
                "division_overflow",
                f"a division whose result does not fit, such as that of the smallest integer by -1:"
                f" {current.text}, which divides by {current.divisor}",
                address,
            )
        how = f": {current.text}" if current and current.divides else ""
        return Verdict("division_by_zero", f"an integer was divided by zero{how}", address)
    return Verdict("arithmetic", signals.code(moment.signal)[1] or "a fault in arithmetic", address)


def _illegal(moment: Moment) -> Verdict:
    current = moment.instruction
    if current and current.mnemonic in ("ud2", "ud1", "ud0", "brk", "udf"):
        return Verdict(
            "trap_instruction",
            "the program ran into a trap that the compiler put there: code that must not be reached, a failed"
            " check, or __builtin_trap",
            moment.signal.address,
        )
    return Verdict(
        "illegal_instruction",
        "the processor does not know the instruction: built for a newer one, or no code at all",
        moment.signal.address,
    )


def _trap(moment: Moment) -> Verdict:
    current = moment.instruction
    if current and current.text in TRAPS_OF_COMPILERS:
        return _illegal(moment)
    return Verdict(
        "breakpoint",
        "a breakpoint or trap with no debugger there to take it"
        + (f": {current.text}" if current and current.mnemonic in ("int3", "brk", "ud2") else ""),
        moment.signal.address,
    )


def _refused_call(moment: Moment) -> Verdict:
    return Verdict(
        "refused_system_call",
        f"a seccomp filter refused system call {moment.signal.system_call}",
        moment.signal.address,
    )
