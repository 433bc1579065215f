"""What a kernel image says of itself: its build id, its symbols, its types."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memdump.image.base import MissingMemory
from memdump.kernel import anchors, kallsyms
from memdump.kernel.btf import MAGIC, BadBtf, Btf, size_of
from memdump.kernel.location import START_KERNEL_MAP, Location
from memdump.kernel.symbols import SymbolTable
from memdump.kernel.vmcoreinfo import VmcoreInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.image.base import Image
    from memdump.kernel.problems import Problems

LINK_ADDRESS = START_KERNEL_MAP + (16 << 20)
"""Where an x86-64 kernel is linked to: ``CONFIG_PHYSICAL_START`` is 16 MiB in every distribution."""

BUILD_ID_NOTE = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0"
"""An ELF note of type NT_GNU_BUILD_ID, by GNU, with 20 bytes of SHA-1."""
ELF_MAGIC = b"\x7fELF"
BANNER = re.compile(rb"Linux version ([0-9]\S*) \(")


def of_kernel(image: Image, location: Location, problems: Problems) -> tuple[str | None, SymbolTable, Btf | None]:
    """Build id, symbols and types of the kernel at ``location``; what is missing is noted."""
    data = _kernel_image(image, location, problems)
    build_id = find_build_id(data, location.text_size)
    symbols = kallsyms.find_symbols(data, location.virtual, location.virtual, location.text_size)
    btf = _find_btf(data, location, symbols)
    if btf is None:
        problems.add("", "BTF", "no whole BTF of vmlinux in this image: structures cannot be read")
    if symbols is None:
        problems.add("", "kallsyms", "not found: only what VMCOREINFO names and the first task leads to can be read")
        symbols = anchors.find(data, location, btf)
    return build_id, symbols, btf


def find_build_id(data: bytes, start: int) -> str | None:
    """The build id of vmlinux, in hex.

    The vDSO images inside the kernel have notes of their own: theirs follow an ELF header at a short distance.
    """
    at = data.find(BUILD_ID_NOTE, start)
    while at >= 0:
        if data.rfind(ELF_MAGIC, max(0, at - 0x2000), at) < 0:
            return data[at + len(BUILD_ID_NOTE) :][:20].hex()
        at = data.find(BUILD_ID_NOTE, at + 1)
    return None


def made_up_vmcoreinfo(image: Image, location: Location, symbols: SymbolTable) -> VmcoreInfo:
    """A VMCOREINFO for a kernel whose own is not in the image, with what reading memory takes."""
    try:
        found = BANNER.search(image.read(location.physical + location.text_size, location.size - location.text_size))
    except MissingMemory:
        found = None
    directory = symbols.address_of("init_top_pgt") or symbols.address_of("swapper_pg_dir") or 0
    lines = [
        f"OSRELEASE={found[1].decode('ascii', 'replace') if found else 'unknown'}",
        "PAGESIZE=4096",
        f"SYMBOL(_stext)={location.virtual:x}",
        f"SYMBOL(swapper_pg_dir)={directory:x}",
        f"NUMBER(phys_base)={location.phys_base}",
        f"NUMBER(pgtable_l5_enabled)={int(location.levels == 5)}",
        f"KERNELOFFSET={location.virtual - LINK_ADDRESS:x}",
        "NUMBER(SECTION_SIZE_BITS)=27",
        f"NUMBER(MAX_PHYSMEM_BITS)={52 if location.levels == 5 else 46}",
        "LENGTH(mem_section)=2048",
    ]
    return VmcoreInfo("".join(f"{line}\n" for line in lines).encode())


def _kernel_image(image: Image, location: Location, problems: Problems) -> bytes:
    """The bytes of the kernel image, with zeros where the image has a hole."""
    try:
        return image.read(location.physical, location.size)
    except MissingMemory:
        pass
    pages = []
    for address in range(location.physical, location.physical + location.size, 4096):
        try:
            pages.append(image.read(address, 4096))
        except MissingMemory as error:
            problems.add("", "kernel image", error)
            pages.append(bytes(4096))
    return b"".join(pages)


def _find_btf(data: bytes, location: Location, symbols: SymbolTable | None) -> Btf | None:
    """The BTF between its symbols, or the first whole one in the kernel image.

    Other copies in memory (of the file that was booted, of an earlier decompression) are often torn and never needed.
    """
    for start in _btf_starts(data, location, symbols):
        size = size_of(data[start : start + 64])
        if size is None or size > len(data) - start:
            continue
        try:
            btf = Btf(data[start : start + size])
        except BadBtf:
            continue
        if next(btf.named("task_struct"), None):
            return btf
    return None


def _btf_starts(data: bytes, location: Location, symbols: SymbolTable | None) -> Iterator[int]:
    start = symbols.address_of("__start_BTF") if symbols else None
    if start is not None:
        yield start - location.virtual
    at = data.find(MAGIC, location.text_size)
    while at >= 0:
        if at % 4 == 0:
            yield at
        at = data.find(MAGIC, at + 1)
