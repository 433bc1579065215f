"""Counts what of a process's address space is in memory, by its page tables, which are read whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.kernel.problems import SMEAR

if TYPE_CHECKING:
    from memdump.kernel.kernel import Kernel

PAGE_SHIFT = 12
TABLE_SHIFT = 9
TABLE_SIZE = 4096
PRESENT, LARGE, PROTNONE, SPECIAL = 1, 1 << 7, 1 << 8, 1 << 9
"""Bits of a page table entry: ``arch/x86/include/asm/pgtable_types.h``."""
FRAME = 0x000FFFFFFFFFF000
HUGE_PAGE = 2 << 20
ADDRESS_BITS = {4: 47, 5: 56}
"""Bits of a user address, by levels of the page tables."""


class Resident:
    """The page tables of one process: ``directory`` is the physical address of its top one."""

    def __init__(self, kernel: Kernel, directory: int, huge_zero_page: int | None = None) -> None:
        self._image = kernel.image
        self._levels = kernel.location.levels
        self._directory = directory
        self._huge_zero_page = huge_zero_page
        self._tables: dict[int, tuple[int, memoryview]] = {}
        self._lowest: dict[int, memoryview] = {}
        """The tables of the lowest level, by the number of the 2 MiB that each maps."""
        self.error: Exception | None = None
        """Why the last count is too small; None where it is not."""

    def count(self, start: int, end: int) -> int:
        """The bytes between two addresses that are mapped to memory, as Rss of ``/proc/PID/smaps`` has them.

        As there, pages of zeros that all processes share do not count, and what is in swap does not; huge TLB
        pages, which smaps shows apart, do.  Raises `ValueError` where that is no part of an address space.
        """
        if not 0 <= start < end <= 1 << ADDRESS_BITS[self._levels]:
            raise ValueError(f"torn: no address space has {start:#x}-{end:#x}")
        self.error = None
        entries = self._lowest.get(start // HUGE_PAGE)
        if entries is not None and (end - 1) // HUGE_PAGE == start // HUGE_PAGE:  # as most mappings
            first = start % HUGE_PAGE >> PAGE_SHIFT
            return _pages(entries[first : first + (end - start >> PAGE_SHIFT)].tolist())
        return self._count(self._directory, self._levels, 0, start, end)

    def _count(self, table: int, level: int, base: int, start: int, end: int) -> int:
        """As `count`, by the table at a physical address which maps memory from ``base`` on."""
        shift = PAGE_SHIFT + TABLE_SHIFT * (level - 1)
        first, last = start - base >> shift, end - 1 - base >> shift
        try:
            whole = self._entries(table, base)
        except SMEAR as error:
            self.error = error
            return 0
        entries = whole[first : last + 1].tolist()
        if level == 1:
            self._lowest[base // HUGE_PAGE] = whole
            return _pages(entries)
        found = 0
        address = start >> shift << shift
        for entry in entries:
            if entry:
                part = max(start, address), min(end, address + (1 << shift))
                if entry & LARGE and level <= 3:
                    found += 0 if self._is_zero(entry) else part[1] - part[0]
                elif entry & PRESENT:
                    found += self._count(entry & FRAME, level - 1, address, *part)
            address += 1 << shift
        return found

    def _is_zero(self, entry: int) -> bool:
        return entry & FRAME & -HUGE_PAGE == self._huge_zero_page

    def _entries(self, table: int, base: int) -> memoryview:
        """The entries of a table, which no healthy one uses for two different parts of the address space."""
        known = self._tables.get(table)
        if known is None:
            known = base, memoryview(self._image.read(table, TABLE_SIZE)).cast("Q")
            self._tables[table] = known
        if known[0] != base:
            raise ValueError(f"torn: the page table {table:#x} maps two places")
        return known[1]


def _pages(entries: list[int]) -> int:
    """The bytes that entries of the lowest level map to memory."""
    mapped = [entry for entry in entries if entry & (PRESENT | PROTNONE) and not entry & SPECIAL]
    return len(mapped) << PAGE_SHIFT
