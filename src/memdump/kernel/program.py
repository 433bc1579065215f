"""Makes a `drgn.Program` of an image: memory, types and symbols, so that drgn's own helpers work on it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import drgn

from memdump.image.base import MissingMemory

if TYPE_CHECKING:
    from memdump.image.base import Image
    from memdump.kernel.location import Location
    from memdump.kernel.symbols import SymbolTable

DIRECT_MAP_BASE = {4: 0xFFFF888000000000, 5: 0xFF11000000000000}
"""``__PAGE_OFFSET_BASE_L4`` and ``_L5``: where memory is mapped when KASLR has not moved it."""


def make_program(image: Image, location: Location, vmcoreinfo: bytes, direct_map: int) -> drgn.Program:
    """A program that reads the image; types and symbols are installed by `memdump.kernel.typefinder.install`.

    The kernel image and the direct map are read by arithmetic, everything else through the page tables, as
    the processor would: that is quicker, and holds where page tables are torn.
    """
    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64), vmcoreinfo=vmcoreinfo)

    def physical(address: int, size: int, _offset: int, _physical: bool) -> bytes:
        try:
            return image.read(address, size)
        except MissingMemory as error:
            raise drgn.FaultError(str(error), address) from None

    for found in image.ranges:
        program.add_memory_segment(found.start, found.size, physical, physical=True)
    program.set_linux_kernel_custom(vmcoreinfo, is_live=False)

    def linear(difference: int) -> object:
        def read(address: int, size: int, _offset: int, _physical: bool) -> bytes:
            try:
                return image.read(address - difference, size)
            except MissingMemory as error:
                raise drgn.FaultError(str(error), address) from None

        return read

    for found in image.ranges:
        program.add_memory_segment(direct_map + found.start, found.size, linear(direct_map))
    program.add_memory_segment(location.virtual, location.size, linear(location.virtual - location.physical))
    # With its extent known, drgn takes the ORC tables in the kernel image to unwind stacks.
    program.main_module("kernel", create=True).address_ranges = [
        (location.virtual, location.virtual + location.size)
    ]
    return program


def direct_map_base(image: Image, location: Location, symbols: SymbolTable) -> int:
    """The virtual address of physical address 0: ``page_offset_base``, which KASLR moves."""
    address = symbols.address_of("page_offset_base")
    if address is not None:
        try:
            (base,) = struct.unpack("<Q", image.read(location.translate(address), 8))
        except MissingMemory:
            base = 0
        if base >= DIRECT_MAP_BASE[5]:
            return int(base)
    return DIRECT_MAP_BASE[location.levels]
