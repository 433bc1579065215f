"""Walks an XArray in a memory that may be torn: it ends, whatever the nodes hold."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import drgn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.problems import Problems

INTERNAL = 2
"""The low two bits of an entry that is not a pointer to what is stored (``xa_is_internal``)."""
LARGEST_INTERNAL = 4096
"""Internal entries up to this are siblings, retries and reserved slots, above it nodes (``xa_is_node``)."""


def entries(program: drgn.Program, head: int, problems: Problems, table: str) -> Iterator[tuple[int, int]]:
    """Yield the index and the entry of everything stored, in order; nodes that fault are noted and left out.

    ``head`` is the value of ``xa_head`` of a ``struct xarray`` (``include/linux/xarray.h``), of which the
    ``struct radix_tree_root`` of an IDR is an alias since 4.20.
    """
    if head & 3 != INTERNAL:
        if head:
            yield 0, head
        return
    node = program.type("struct xa_node")
    slots = drgn.offsetof(node, "slots")
    layout = struct.Struct(f"<B{slots - 1}x{node.member('slots').type.length}Q")
    waiting = [(head, 0, 256)]
    while waiting:
        entry, start, above = waiting.pop()
        if entry & 3 != INTERNAL:
            yield start, entry
            continue
        if entry <= LARGEST_INTERNAL:
            continue
        place = f"xa_node {entry - INTERNAL:#x}"
        with problems.skipping(table, place):
            shift, *children = layout.unpack(program.read(entry - INTERNAL, layout.size))
            if shift >= above:
                raise ValueError("torn: it does not lie below the node that leads to it")
            below = [(child, start + (slot << shift), shift) for slot, child in enumerate(children) if child]
            waiting += reversed(below)


def entries_of(array: Any, problems: Problems, table: str) -> Iterator[tuple[int, int]]:
    """`entries` of a ``struct xarray`` object."""
    return entries(array.prog_, array.xa_head.value_(), problems, table)
