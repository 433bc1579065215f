"""Reads chosen members of many structures at once.

drgn reads members one by one, a few microseconds each.  Where thousands of structures of one type stand in
memory, their bytes are read whole and the members are taken from them.
"""

from __future__ import annotations

import operator
import struct
from typing import TYPE_CHECKING

import drgn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

UNSIGNED = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Fields:
    """Some integer or pointer members of a structure, by their designators (``"a.b[1].c"``).

    Raises `LookupError` where the kernel has no such type or member.
    """

    def __init__(self, type_: drgn.Type, *designators: str) -> None:
        places = []
        for designator in designators:
            offset, member = _member(type_, designator)
            letter = UNSIGNED[drgn.sizeof(member)]
            places.append((offset, letter.lower() if _is_signed(member) else letter))
        self._lay_out(drgn.sizeof(type_), places)

    @classmethod
    def at(cls, size: int, *places: tuple[int, str]) -> Fields:
        """Members of a structure of ``size`` bytes, by offset and format character."""
        made = cls.__new__(cls)
        made._lay_out(size, places)
        return made

    def _lay_out(self, size: int, places: Sequence[tuple[int, str]]) -> None:
        self.size = size
        self.order = sorted(range(len(places)), key=places.__getitem__)
        self.start = places[self.order[0]][0]
        """Offset of the first of them."""
        layout, end = "<", self.start
        for offset, letter in sorted(places):
            layout += f"{offset - end}x{letter}"
            end = offset + struct.calcsize(letter)
        self._layout = struct.Struct(layout)
        back = sorted(range(len(places)), key=self.order.__getitem__)
        self._sorted: Callable[[tuple[int, ...]], tuple[int, ...]] = (
            tuple if back == sorted(back) else operator.itemgetter(*back)
        )

    def read(self, program: drgn.Program, address: int) -> tuple[int, ...]:
        """The values of the structure at a virtual address; raises `drgn.FaultError`."""
        return self._sorted(self._layout.unpack(program.read(address + self.start, self._layout.size)))

    def unpack(self, data: bytes, offset: int = 0) -> tuple[int, ...]:
        """The values of the structure that begins at ``offset`` in ``data``."""
        return self._sorted(self._layout.unpack_from(data, offset + self.start))


def _member(type_: drgn.Type, designator: str) -> tuple[int, drgn.Type]:
    """Offset and type of a member."""
    # The object lies at address 0 and is never read: only the way to its member is of interest.
    found = _pointer_to(type_)
    for name in designator.replace("[", ".[").split("."):
        found = found[int(name[1:-1])] if name.startswith("[") else found.member_(name)
    address = found.address_
    if address is None or found.bit_field_size_ is not None:
        raise LookupError(f"{type_.type_name()} has no whole member {designator}")
    return address, found.type_


def _pointer_to(type_: drgn.Type) -> drgn.Object:
    return drgn.Object(type_.prog, type_, address=0)


def _is_signed(type_: drgn.Type) -> bool:
    while type_.kind is drgn.TypeKind.TYPEDEF:
        type_ = type_.type
    return type_.kind is drgn.TypeKind.INT and type_.is_signed


def first_member(type_: drgn.Type, *designators: str) -> str:
    """The first of the designators that the type has, where releases name a member differently.

    Raises `LookupError` where it has none of them.
    """
    for designator in designators:
        try:
            drgn.offsetof(type_, designator)
        except LookupError:
            continue
        return designator
    raise LookupError(f"{type_.type_name()} has no {' or '.join(designators)} in this kernel")
