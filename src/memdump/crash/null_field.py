"""Which field was used through which NULL pointer, by the types of the variables in the crashed function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import drgn

from memdump.crash.program import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_VARIABLES = 64
DEEPEST = 8
STRUCTURES = (drgn.TypeKind.STRUCT, drgn.TypeKind.UNION, drgn.TypeKind.CLASS)


def candidates(frame: Any, offset: int, loaded_from: int) -> list[str]:
    """Expressions such as ``node->next``, of variables that are NULL, whose field is at ``offset`` bytes.

    The variable at the address ``loaded_from`` is the one, if there is one.
    """
    found: list[str] = []
    for name in _names(frame):
        try:
            value = frame[name]
            fields = list(_fields(name, value, offset))
            if fields and loaded_from and value.address_ == loaded_from:
                return fields
        except (*FAULTS, RecursionError):
            continue
        found += fields
    return found


def _names(frame: Any) -> list[str]:
    try:
        return list(dict.fromkeys(frame.locals()))[:MOST_VARIABLES]
    except FAULTS:
        return []


def _fields(name: str, value: Any, offset: int) -> Iterator[str]:
    if not isinstance(value, drgn.Object) or value.absent_:
        return
    kind = _plain(value.type_)
    if kind.kind is not drgn.TypeKind.POINTER or value.value_():
        return
    target = _plain(kind.type)
    if target.kind in STRUCTURES and target.is_complete():
        field = _field(target, offset * 8, 0)
        if field:
            yield f"{name}->{field}"
    elif offset == 0:
        yield f"*{name}"


def _field(structure: drgn.Type, bit: int, depth: int) -> str:
    """The member that begins at a bit, however deep it is nested; empty where there is none."""
    for member in structure.members or ():
        kind = _plain(member.type)
        try:
            size = drgn.sizeof(kind) * 8
        except TypeError:
            continue
        if member.bit_offset == bit and kind.kind not in STRUCTURES:
            return member.name or ""
        if (
            kind.kind in STRUCTURES
            and member.bit_offset <= bit < member.bit_offset + size
            and depth < DEEPEST
        ):
            inner = _field(kind, bit - member.bit_offset, depth + 1)
            if inner:
                return f"{member.name}.{inner}" if member.name else inner
    return ""


def _plain(found: drgn.Type) -> drgn.Type:
    for _ in range(64):
        if found.kind is not drgn.TypeKind.TYPEDEF:
            break
        found = found.type
    return found
