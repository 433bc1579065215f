"""Walks a maple tree in a memory that may be torn: it ends, whatever the nodes hold."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import drgn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.problems import Problems

LARGEST = (1 << 64) - 1
DEEPEST = 31
"""``MAPLE_HEIGHT_MAX`` of ``include/linux/maple_tree.h``."""
NODE_MASK = ~0xFF & LARGEST
LEAF_64, RANGE_64, ARANGE_64 = 1, 2, 3
"""``enum maple_type``, which a pointer to a node holds in bits 3 to 6."""
INTERNAL, LARGEST_RESERVED = 2, 4096
"""As in an XArray: a root with the former in its low bits is a node if above the latter (``xa_is_node``)."""


class _Layout(NamedTuple):
    """Where a node of one type has its pivots and slots."""

    pivots: struct.Struct
    pivots_offset: int
    slots: struct.Struct
    slots_offset: int
    end_offset: int


class MapleTrees:
    """Reads maple trees; a program without them (before Linux 6.1) raises `LookupError`."""

    def __init__(self, program: drgn.Program, problems: Problems) -> None:
        self._program = program
        self._problems = problems
        node = program.type("struct maple_node")
        self._size = drgn.sizeof(node)
        ranges = _layout(program.type("struct maple_range_64"))
        self._layouts = {
            LEAF_64: ranges,
            RANGE_64: ranges,
            ARANGE_64: _layout(program.type("struct maple_arange_64")),
        }

    def entries(self, root: int, table: str) -> Iterator[int]:
        """Yield the entries in order of their index; nodes that fault are noted for ``table`` and left out.

        ``root`` is the value of ``ma_root`` of a ``struct maple_tree``.
        """
        if root & 3 != INTERNAL or root <= LARGEST_RESERVED:
            if _is_stored(root):
                yield root
            return
        seen: set[int] = set()
        waiting = [(root, 0, LARGEST, DEEPEST)]
        while waiting:
            entry, first, last, depth = waiting.pop()
            with self._problems.skipping(table, f"maple_node {entry & NODE_MASK:#x}"):
                if entry & NODE_MASK in seen or not depth:
                    raise ValueError("torn: the tree runs into itself")
                seen.add(entry & NODE_MASK)
                below = self._read(entry, first, last)
                if entry >> 3 & 0xF == LEAF_64:
                    yield from (found for found, _, _ in below if _is_stored(found))
                else:
                    waiting += [(*child, depth - 1) for child in reversed(below)]

    def _read(self, entry: int, first: int, last: int) -> list[tuple[int, int, int]]:
        """What is in a node for the indices ``first`` to ``last``: each slot with the indices it is for."""
        layout = self._layouts.get(entry >> 3 & 0xF)
        if layout is None:
            raise ValueError(f"torn: a node of type {entry >> 3 & 0xF}")
        data = self._program.read(entry & NODE_MASK, self._size)
        pivots = layout.pivots.unpack_from(data, layout.pivots_offset)
        slots = layout.slots.unpack_from(data, layout.slots_offset)
        found = []
        upper = (*pivots[: _end(layout, data, pivots, last)], last)
        for slot, pivot in zip(slots, upper, strict=False):
            if not first <= pivot <= last:
                raise ValueError("torn: its pivots do not ascend")
            found.append((slot, first, pivot))
            first = pivot + 1
        return found


def _end(layout: _Layout, data: bytes, pivots: tuple[int, ...], last: int) -> int:
    """The number of the last slot in use (``ma_data_end`` of ``lib/maple_tree.c``)."""
    if pivots[-1] == 0 or len(pivots) < layout.slots.size // 8 - 1:
        return data[layout.end_offset]
    return len(pivots) - 1 if pivots[-1] == last else len(pivots)


def _is_stored(entry: int) -> bool:
    return entry != 0 and entry & 3 != INTERNAL


def _layout(type_: drgn.Type) -> _Layout:
    pivots, slots = type_.member("pivot"), type_.member("slot")
    return _Layout(
        struct.Struct(f"<{pivots.type.length}Q"),
        drgn.offsetof(type_, "pivot"),
        struct.Struct(f"<{slots.type.length}Q"),
        drgn.offsetof(type_, "slot"),
        drgn.offsetof(type_, "meta.end"),
    )
