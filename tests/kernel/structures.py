"""Small structures in a small memory, to be read through drgn."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import drgn

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE = 0xFFFF888000000000
"""Where the memory begins."""


def program(memory: bytes) -> drgn.Program:
    """A program that sees ``memory`` from `BASE` on and has the types that the tests need."""
    made = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))

    def read(address: int, size: int, _offset: int, _physical: bool) -> bytes:
        return memory[address - BASE : address - BASE + size]

    if memory:
        made.add_memory_segment(BASE, len(memory), read)
    types = {type_.tag: type_ for type_ in _types(made)}

    def find(
        _program: drgn.Program, _kinds: drgn.TypeKindSet, name: str, _file: str | None
    ) -> drgn.Type | None:
        return types.get(name)

    made.register_type_finder("tests", find, enable_index=0)
    return made


def _types(made: drgn.Program) -> Sequence[drgn.Type]:
    """As in Linux 6.1: ``include/linux/xarray.h`` and ``include/linux/maple_tree.h``."""
    byte = made.int_type("unsigned char", 1, False)
    word = made.int_type("unsigned long", 8, False)

    def array(element: drgn.Type, length: int) -> drgn.Type:
        return made.array_type(element, length)

    def structure(tag: str, size: int, *members: tuple[str, drgn.Type, int]) -> drgn.Type:
        found = [drgn.TypeMember(type_, name, offset * 8) for name, type_, offset in members]
        return made.struct_type(tag, size, found)

    metadata = structure("maple_metadata", 2, ("end", byte, 0), ("gap", byte, 1))
    slots = made.union_type(
        None,
        128,
        [
            drgn.TypeMember(array(word, 16), "slot"),
            drgn.TypeMember(
                structure("maple_pad", 128, ("pad", array(word, 15), 0), ("meta", metadata, 120))
            ),
        ],
    )
    ranges = made.struct_type(
        "maple_range_64",
        256,
        [
            drgn.TypeMember(word, "parent"),
            drgn.TypeMember(array(word, 15), "pivot", 8 * 8),
            drgn.TypeMember(slots, None, 128 * 8),
        ],
    )
    gaps = structure(
        "maple_arange_64",
        256,
        ("parent", word, 0),
        ("pivot", array(word, 9), 8),
        ("slot", array(word, 10), 80),
        ("gap", array(word, 10), 160),
        ("meta", metadata, 240),
    )
    xa_node = structure(
        "xa_node", 576, ("shift", byte, 0), ("offset", byte, 1), ("slots", array(word, 64), 40)
    )
    return [xa_node, ranges, gaps, structure("maple_node", 256)]


def xa_node(shift: int, slots: dict[int, int]) -> bytes:
    """A ``struct xa_node``."""
    return struct.pack("<B39x64Q24x", shift, *(slots.get(number, 0) for number in range(64)))


def leaf(pivots: Sequence[int], slots: Sequence[int]) -> bytes:
    """A ``struct maple_node`` at the bottom, with the slot after the last pivot reaching to the end."""
    words = [0, *pivots, *[0] * (15 - len(pivots)), *slots, *[0] * (16 - len(slots))]
    if len(pivots) < 15:
        words[-1] = len(pivots)  # the metadata, which is where the last slot would be
    return struct.pack("<32Q", *words)


def branch(pivots: Sequence[int], slots: Sequence[int]) -> bytes:
    """A ``struct maple_node`` that keeps track of gaps, as those of an address space do."""
    words = [
        0,
        *pivots,
        *[0] * (9 - len(pivots)),
        *slots,
        *[0] * (10 - len(slots)),
        *[0] * 10,
        len(pivots),
        0,
    ]
    return struct.pack("<32Q", *words)
