"""The machine instructions around the program counter, and which memory the one at it uses (capstone)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memdump.crash.program import CrashProgram

BEFORE, AFTER = 5, 5
LONGEST_INSTRUCTION = 15
FARTHEST_START = 1 << 15
"""A function that began farther back is not disassembled from its beginning."""
ADDRESS, ADDRESS_32 = (1 << 64) - 1, (1 << 32) - 1
ALIASES = {"fp": "x29", "lr": "x30"}
"""What capstone calls registers of arm64 that the kernel only numbers."""
SEGMENT_BASES = {"fs": "fs.base", "gs": "gs.base"}
DIVISIONS = ("div", "idiv")
TRANSFERS = {"ret": "return", "call": "call", "jmp": "jump", "blr": "call", "br": "jump"}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction."""

    address: int
    code: str
    """Its bytes, hexadecimal."""
    text: str


@dataclass(frozen=True, slots=True)
class Access:
    """Memory that an instruction uses."""

    address: int
    size: int
    """In bytes; 0 where it is not known."""
    reads: bool
    writes: bool
    base: str
    """The register that the address is reckoned from; empty where there is none."""

    @property
    def verb(self) -> str:
        """What it does, in words."""
        return "write of" if self.writes and not self.reads else "change of" if self.writes else "read of"


class Transfer(NamedTuple):
    """Where an instruction leads that leaves the sequence."""

    verb: str
    """``return``, ``call`` or ``jump``."""
    target: int


@dataclass(frozen=True, slots=True)
class Current:
    """The instruction at the program counter."""

    mnemonic: str
    text: str
    accesses: tuple[Access, ...]
    divides: bool
    divisor: int | None
    """What a division divides by, where that is known."""
    transfer: Transfer | None = None
    """Of one that leads to where a register or memory says, where that is known."""


def engine(architecture: str) -> Any:
    """A disassembler with details; None for an architecture that is not supported."""
    import capstone  # type: ignore[import-untyped]

    if architecture == "x86_64":
        found = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    elif architecture == "i686":
        found = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
    elif architecture == "aarch64":
        found = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    else:
        return None
    found.detail = True
    return found


def around(program: CrashProgram, pc: int, function: int | None) -> list[Instruction]:
    """The instructions around ``pc``, which is in a function that begins at ``function``."""
    disassembler = engine(program.core.architecture)
    if disassembler is None:
        return []
    before = _before(program, disassembler, pc, function)
    after = _decode(program, disassembler, pc, LONGEST_INSTRUCTION * (AFTER + 1))[: AFTER + 1]
    return before[-BEFORE:] + after


def _before(program: CrashProgram, disassembler: Any, pc: int, function: int | None) -> list[Instruction]:
    """Instructions have no fixed size: only from a known beginning does one know where each begins.

    Where there is none, that beginning counts from which most of them lead exactly to ``pc``.
    """
    if function is not None and 0 <= pc - function <= FARTHEST_START:
        starts = [function]
    elif program.core.architecture == "aarch64":
        starts = [pc - 4 * back for back in range(BEFORE, 0, -1)]
    else:
        starts = [pc - back for back in range(LONGEST_INSTRUCTION * BEFORE, 0, -1)]
    for start in starts:
        found = _decode(program, disassembler, start, pc - start)
        if found and found[-1].address + len(found[-1].code) // 2 == pc and found[0].address == start:
            return found
    return []


def _decode(program: CrashProgram, disassembler: Any, address: int, size: int) -> list[Instruction]:
    if size <= 0 or address < 0:
        return []
    return [
        Instruction(found.address, bytes(found.bytes).hex(), f"{found.mnemonic} {found.op_str}".strip())
        for found in disassembler.disasm(_code(program, address, size), address)
    ]


def _code(program: CrashProgram, address: int, size: int) -> bytes:
    """As much of the code as can be read: the end of the mapping may be near."""
    for wanted in range(size, 0, -1):
        code = program.read(address, wanted)
        if code is not None:
            return code
    return b""


def source(
    program: CrashProgram, before: list[Instruction], register: str, registers: Mapping[str, int]
) -> int:
    """The address that ``register`` was loaded from by one of the instructions ``before``; 0 if none.

    A constant may have been added to it since.
    """
    import capstone

    disassembler = engine(program.core.architecture)
    for one in reversed(before):
        found = next(disassembler.disasm(bytes.fromhex(one.code), one.address, 1), None)
        if found is None or not found.operands or found.reg_name(found.operands[0].reg) != register:
            continue
        if found.mnemonic in ("add", "sub") and found.operands[-1].type == capstone.CS_OP_IMM:
            continue
        loads = [access for access in _accesses(found, registers) if access.reads and access.base != register]
        return loads[0].address if loads and found.mnemonic in ("mov", "ldr") else 0
    return 0


def current(program: CrashProgram, pc: int, registers: Mapping[str, int]) -> Current | None:
    """The instruction at ``pc`` with the memory that it uses; None where it cannot be read."""
    disassembler = engine(program.core.architecture)
    if disassembler is None:
        return None
    found = next(disassembler.disasm(_code(program, pc, LONGEST_INSTRUCTION), pc, 1), None)
    if found is None:
        return None
    divides = found.mnemonic in DIVISIONS
    accesses = tuple(_accesses(found, registers))
    return Current(
        found.mnemonic,
        f"{found.mnemonic} {found.op_str}".strip(),
        accesses,
        divides,
        _divisor(program, found, registers) if divides else None,
        _transfer(program, found, accesses, registers),
    )


def _transfer(
    program: CrashProgram, found: Any, accesses: tuple[Access, ...], registers: Mapping[str, int]
) -> Transfer | None:
    """Where a return, call or jump leads whose target does not stand in the instruction itself."""
    import capstone

    verb = TRANSFERS.get(found.mnemonic)
    operand = found.operands[0] if found.operands else None
    if verb is None or (operand is not None and operand.type == capstone.CS_OP_IMM and verb != "return"):
        return None
    if operand is not None and operand.type == capstone.CS_OP_REG:
        target = _value(registers, found.reg_name(operand.reg))
    else:
        target = program.word(accesses[0].address) if accesses else None
    return Transfer(verb, target) if target is not None else None


def _accesses(found: Any, registers: Mapping[str, int]) -> list[Access]:
    import capstone

    if found.mnemonic in ("lea", "nop"):
        return []
    accesses = [
        _access(found, operand, registers) for operand in found.operands if operand.type == capstone.CS_OP_MEM
    ]
    name, size = ("esp", 4) if "esp" in registers else ("rsp", 8)
    stack = registers.get(name)
    if stack is not None and found.mnemonic in ("push", "call"):
        accesses.append(Access((stack - size) & ADDRESS, size, reads=False, writes=True, base=name))
    if stack is not None and found.mnemonic in ("pop", "ret", "leave"):
        accesses.append(Access(stack, size, reads=True, writes=False, base=name))
    return [access for access in accesses if access]


def _access(found: Any, operand: Any, registers: Mapping[str, int]) -> Access | None:
    import capstone

    memory = operand.mem
    base, index = found.reg_name(memory.base) or "", found.reg_name(memory.index) or ""
    address = memory.disp
    for register, scale in ((base, 1), (index, _scale(operand))):
        if register:
            value = found.address + found.size if register == "rip" else _value(registers, register)
            if value is None:
                return None
            address += value * scale
    if segment := SEGMENT_BASES.get(found.reg_name(getattr(memory, "segment", 0)) or ""):
        if segment not in registers:
            return None
        address += registers[segment]
    writes = bool(operand.access & capstone.CS_AC_WRITE)
    reads = bool(operand.access & capstone.CS_AC_READ)
    if "sp" in registers:
        reads, writes = _does_arm64(found.mnemonic)
    return Access(
        address & (ADDRESS_32 if "esp" in registers else ADDRESS),
        getattr(operand, "size", 0) or _size_arm64(found),
        reads,
        writes,
        base,
    )


def _does_arm64(mnemonic: str) -> tuple[bool, bool]:
    """Whether an instruction of arm64 that uses memory reads and writes it; capstone errs in that.

    What begins neither with ``ld`` nor with ``st`` is an atomic exchange, or one that begins with ``ld`` and
    the name of what it does (LDADD, LDCLR and so on: ARM DDI 0487, C3.2).
    """
    if mnemonic.startswith("prf"):
        return False, False
    exchanges = re.match("(cas|swp|ld(add|clr|eor|set|smax|smin|umax|umin))", mnemonic)
    return exchanges is not None or mnemonic.startswith("ld"), (
        exchanges is not None or mnemonic.startswith("st")
    )


def _size_arm64(found: Any) -> int:
    """How many bytes a load or store of arm64 moves, by its name and its registers; 0 where not known."""
    import capstone

    if sized := re.search("^(?:ld|st|cas|swp).*?(b|h|sw)$", found.mnemonic):
        return {"b": 1, "h": 2, "sw": 4}[sized[1]]
    names = [
        found.reg_name(one.reg) for one in found.operands if one.type == capstone.CS_OP_REG and not one.vas
    ]
    if not names:
        return 0
    pair = found.mnemonic in ("ldp", "stp", "ldnp", "stnp", "ldpsw", "ldxp", "ldaxp")
    # Store-exclusive has the register for its status first: the last one before the memory is moved.
    each = {"x": 8, "w": 4, "q": 16, "d": 8, "s": 4, "h": 2, "b": 1}
    width = each.get(ALIASES.get(names[-1], names[-1])[0], 0)
    return width * (2 if pair else 1)


def _scale(operand: Any) -> int:
    """What the index register is multiplied by: x86 says a factor, arm64 a shift."""
    shift = getattr(operand, "shift", None)
    return 1 << shift.value if shift else int(getattr(operand.mem, "scale", 1))


def _value(registers: Mapping[str, int], register: str) -> int | None:
    """A register, also by the name of its lower part."""
    register = ALIASES.get(register, register)
    if register in registers:
        return registers[register]
    if register in ("xzr", "wzr"):
        return 0
    whole = _whole(register)
    value = registers.get(whole, registers.get(f"e{whole[1:]}"))
    if value is None:
        return None
    return value & 0xFFFFFFFF if register[0] in "ew" or register.endswith("d") else value


def _whole(register: str) -> str:
    """The 64-bit register that a register is the lower part of."""
    if re.fullmatch(r"r\d+[dwb]", register):
        return register[:-1]
    if re.fullmatch(r"w\d+", register):
        return f"x{register[1:]}"
    if re.fullmatch("[abcd]l", register):
        return f"r{register[0]}x"
    if re.fullmatch("(si|di|bp|sp)l", register):
        return f"r{register[:2]}"
    return f"r{register.removeprefix('e')}"


def _divisor(program: CrashProgram, found: Any, registers: Mapping[str, int]) -> int | None:
    import capstone

    operand = found.operands[0]
    if operand.type == capstone.CS_OP_MEM:
        access = _access(found, operand, registers)
        data = program.read(access.address, operand.size) if access else None
        return int.from_bytes(data, "little", signed=True) if data is not None else None
    value = _value(registers, found.reg_name(operand.reg))
    if value is None:
        return None
    sign: int = 1 << operand.size * 8 - 1
    return (value & sign - 1) - (value & sign)
