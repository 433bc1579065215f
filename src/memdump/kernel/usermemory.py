"""The memory of a process as far as it is in the image, found through its page tables.

Reading address by address asks for each page of a mapping, most of which were never touched or are swapped
out; going through the page tables instead costs what is there, not what there is room for.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from memdump.image.base import MissingMemory
from memdump.kernel.fields import Fields
from memdump.kernel.mapletree import MapleTrees

if TYPE_CHECKING:
    from collections.abc import Iterator

    import drgn

    from memdump.kernel.kernel import Kernel

PAGE = 4096
TABLE = struct.Struct("<512Q")
PRESENT, HUGE = 1, 1 << 7
FRAME = 0x000FFFFFFFFFF000
"""Bits of a page table entry of x86-64 (Intel SDM volume 3, 4.5)."""


VM_WRITE, VM_SHARED = 0x2, 0x8
"""Bits of ``vm_area_struct.vm_flags`` (``include/linux/mm.h``)."""


def private_areas(kernel: Kernel, mm: drgn.Object, table: str, place: str) -> Iterator[tuple[int, int]]:
    """Start and end of what a process may write, shares with none, and has no file behind: heap, bss, stack.

    ``mm`` is its ``struct mm_struct *``; mappings that cannot be read are noted for ``table``.
    """
    area = kernel.program.type("struct vm_area_struct")
    fields = Fields(area, "vm_start", "vm_end", "vm_flags", "vm_file")
    for address in kernel.problems.walk(table, f"mappings of {place}", _areas(kernel, mm, table)):
        with kernel.problems.skipping(table, f"vm_area_struct {address:#x} of {place}"):
            start, end, flags, file = fields.read(kernel.program, address)
            if flags & (VM_WRITE | VM_SHARED) == VM_WRITE and not file:
                if start % PAGE or end % PAGE:
                    raise ValueError("torn: no whole pages")
                yield start, end


def _areas(kernel: Kernel, mm: drgn.Object, table: str) -> Iterator[int]:
    """Addresses of the ``struct vm_area_struct``: in a list, since Linux 6.1 in a maple tree."""
    try:
        tree = mm.mm_mt
    except AttributeError:
        following = Fields(kernel.program.type("struct vm_area_struct"), "vm_next")
        address = mm.mmap.value_()
        while address:
            yield address
            (address,) = following.read(kernel.program, address)
    else:
        yield from MapleTrees(kernel.program, kernel.problems).entries(tree.ma_root.value_(), table)


class UserMemory:
    """What is in the image of the address space whose ``mm_struct.pgd`` is given.

    ``budget`` bounds the pages and page tables that are looked at, so that forged page tables come to an end.
    """

    def __init__(self, kernel: Kernel, pgd: int, budget: int) -> None:
        self._image = kernel.image
        self._top = pgd - kernel.direct_map
        self._levels = kernel.location.levels
        self.budget = budget
        """How many more pages and page tables will be looked at; negative when it was not enough."""

    def pages(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The present pages between two addresses, ascending: address, physical address and size."""
        return self._walk(self._top, self._levels, 0, start, end)

    def chunks(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """What is there between two addresses, ascending: each run of pages with its address."""
        begin, size = start, 0
        parts: list[bytes] = []
        for address, physical, length in self.pages(start, end):
            first, last = max(address, start), min(address + length, end)
            try:
                data = self._image.read(physical + first - address, last - first)
            except MissingMemory:
                continue
            if first != begin + size:
                if parts:
                    yield begin, b"".join(parts)
                begin, parts, size = first, [], 0
            parts.append(data)
            size += len(data)
        if parts:
            yield begin, b"".join(parts)

    def _walk(
        self, table: int, level: int, base: int, start: int, end: int
    ) -> Iterator[tuple[int, int, int]]:
        """The pages that the page table at a physical address maps; ``base`` is where what it maps begins."""
        self.budget -= 1
        try:
            entries = TABLE.unpack(self._image.read(table, TABLE.size))
        except (MissingMemory, ValueError):
            return
        span = PAGE << 9 * (level - 1)
        for index in range(max(0, (start - base) // span), min(512, -(-(end - base) // span))):
            if self.budget < 0:
                return
            entry = entries[index]
            if not entry & PRESENT:
                continue
            address = base + index * span
            if level == 1 or (entry & HUGE and level <= 3):
                self.budget -= span // PAGE
                if self.budget >= 0:
                    yield address, entry & FRAME & -span, span
            else:
                yield from self._walk(entry & FRAME, level - 1, address, start, end)
