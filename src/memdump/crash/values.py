"""What variables had for values, short enough for a line and never the whole of what a pointer leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import drgn

from memdump.crash.program import FAULTS

if TYPE_CHECKING:
    from memdump.crash.program import CrashProgram

LONGEST = 160
LONGEST_STRING = 80
LARGEST = 2048
"""Bytes; of a larger object only its size is told."""
OPTIMISED_OUT = "<optimised out>"
CHARACTERS = ("char", "signed char", "unsigned char")


def show(program: CrashProgram, value: drgn.Object) -> str:
    """A value as in C, in one line; in words where there is none."""
    try:
        if value.absent_:
            return OPTIMISED_OUT
        return _cut(_show(program, value))
    except drgn.FaultError:
        return "<not in the core>"
    except (*FAULTS, RecursionError, NotImplementedError):
        return "<cannot be shown>"


def _show(program: CrashProgram, value: drgn.Object) -> str:
    bare = _underlying(value.type_)
    if bare.kind is drgn.TypeKind.POINTER:
        return _pointer(program, value, _underlying(bare.type))
    if bare.kind is drgn.TypeKind.FUNCTION:
        return "<function>"
    if drgn.sizeof(value) > LARGEST:
        return f"<{drgn.sizeof(value)} bytes>"
    if bare.kind is drgn.TypeKind.ARRAY and _is_character(_underlying(bare.type)):
        return _quoted(value.to_bytes_().partition(b"\0")[0])
    if _is_character(bare):
        return _character(value)
    shown: str = value.format_(
        columns=1 << 20,
        type_name=False,
        member_type_names=False,
        element_type_names=False,
        members_same_line=True,
        elements_same_line=True,
        implicit_members=False,
        implicit_elements=False,
        dereference=False,
        string=False,
        symbolize=False,
    )
    return shown


def _pointer(program: CrashProgram, value: drgn.Object, target: drgn.Type) -> str:
    address = int(value.value_())
    shown = f"{address:#x}" if address else "NULL"
    if address and _is_character(target):
        data = program.text(address, LONGEST_STRING + 1)
        return f"{shown} {_quoted(data.encode(errors='surrogateescape'))}" if data is not None else shown
    if address and target.kind is drgn.TypeKind.FUNCTION:
        try:
            return f"{shown} <{program.drgn.symbol(address).name}>"
        except FAULTS:
            return shown
    return shown


def _underlying(found: drgn.Type) -> drgn.Type:
    for _ in range(64):
        if found.kind is not drgn.TypeKind.TYPEDEF:
            break
        found = found.type
    return found


def _is_character(found: drgn.Type) -> bool:
    return found.kind is drgn.TypeKind.INT and found.name in CHARACTERS


def _character(value: drgn.Object) -> str:
    number = int(value.value_())
    return f"{number} {chr(number)!r}" if 0x20 <= number < 0x7F else str(number)


def _quoted(data: bytes) -> str:
    text = data[:LONGEST_STRING].decode(errors="surrogateescape")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' + "…" * (len(data) > LONGEST_STRING)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def type_name(value: Any) -> str:
    """The type of a value, as in C."""
    name: str = value.type_.type_name()
    return _cut(name)
