"""What a kernel image says of itself: its build id, its symbols, its types."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, NamedTuple

from memdump.image.base import MissingMemory
from memdump.kernel import anchors, cache, kallsyms
from memdump.kernel.btf import MAGIC, BadBtf, Btf, size_of
from memdump.kernel.location import START_KERNEL_MAP, Location, texts_at_page_starts
from memdump.kernel.program import direct_map_base
from memdump.kernel.vmcoreinfo import LARGEST, VmcoreInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.image.base import Image
    from memdump.kernel.problems import Problems
    from memdump.kernel.symbols import SymbolTable

LINK_ADDRESS = START_KERNEL_MAP + (16 << 20)
"""Where an x86-64 kernel is linked to: ``CONFIG_PHYSICAL_START`` is 16 MiB in every distribution."""

BUILD_ID_NOTE = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0"
"""An ELF note of type NT_GNU_BUILD_ID, by GNU, with 20 bytes of SHA-1."""
ELF_MAGIC = b"\x7fELF"
VDSO = 0x2000
"""No note of a vDSO is further behind its ELF header."""
STEP, OVERLAP = 1 << 20, 4 * VDSO
"""The build id is looked for in blocks of that size, with so much of the block before."""
BANNER = re.compile(rb"Linux version ([0-9]\S*) \(")


class Facts(NamedTuple):
    """What a kernel image says of itself."""

    build_id: str | None
    """In hex."""
    symbols: SymbolTable
    btf: Btf | None
    vmcoreinfo: VmcoreInfo
    """The kernel's own, or one made up from what else is known."""


def of_kernel(image: Image, location: Location, problems: Problems) -> Facts:
    """The facts about the kernel at ``location``; what is missing is noted."""
    build_id, symbols, btf = _symbols_and_types(image, location, problems)
    vmcoreinfo = _running_vmcoreinfo(image, location, symbols)
    if symbols is None:
        problems.add("", "kallsyms", "not found: only what VMCOREINFO and the first task lead to can be read")
        data = _kernel_image(image, location, problems)
        symbols = anchors.find(data, location, vmcoreinfo, btf)
    if vmcoreinfo is None:
        problems.add("", "VMCOREINFO", "not found: made up from the kernel's page tables and symbols")
        vmcoreinfo = _made_up_vmcoreinfo(image, location, symbols)
    return Facts(build_id, symbols, btf, vmcoreinfo)


def _symbols_and_types(
    image: Image, location: Location, problems: Problems
) -> tuple[str | None, SymbolTable | None, Btf | None]:
    build_id = find_build_id(image, location)
    known = cache.load(build_id, location.virtual) if build_id else None
    if known is not None and (btf := _known_btf(image, location, known)):
        return build_id, known.symbols, btf
    data = _kernel_image(image, location, problems)
    symbols = known.symbols if known else kallsyms.find_symbols(data, location.virtual, location.text_size)
    btf = _find_btf(data, location, symbols)
    if btf is None:
        problems.add("", "BTF", "no whole BTF of vmlinux in this image: structures cannot be read")
    if build_id and btf and symbols and known is None:
        cache.store(build_id, location.virtual, cache.Remembered(symbols, btf.index, zlib.crc32(btf.data)))
    return build_id, symbols, btf


def _known_btf(image: Image, location: Location, known: cache.Remembered) -> Btf | None:
    """The BTF of a kernel that the cache knows: the index is there, the types are in the image."""
    start = known.symbols.address_of("__start_BTF")
    if start is None:
        return None
    try:
        at = location.translate(start)
        size = size_of(image.read(at, 64)) or 0
        data = image.read(at, min(size, location.size))
        return Btf(data, index=known.btf) if zlib.crc32(data) == known.btf_check else None
    except (MissingMemory, BadBtf):
        return None


def find_build_id(image: Image, location: Location) -> str | None:
    """The build id of vmlinux, in hex.

    It is in the read-only data.  The vDSO images there have notes of their own, a short distance behind an
    ELF header.
    """
    for start in range(location.text_size, location.size, STEP):
        try:
            data = image.read(location.physical + start - OVERLAP, min(STEP, location.size - start) + OVERLAP)
        except MissingMemory:
            continue
        at = data.find(BUILD_ID_NOTE, OVERLAP // 2)
        while at >= 0:
            build_id = data[at + len(BUILD_ID_NOTE) :][:20]
            if data.rfind(ELF_MAGIC, max(0, at - VDSO), at) < 0 and len(build_id) == 20:
                return build_id.hex()
            at = data.find(BUILD_ID_NOTE, at + 1)
    return None


def _running_vmcoreinfo(image: Image, location: Location, symbols: SymbolTable | None) -> VmcoreInfo | None:
    """The VMCOREINFO of the kernel that runs: a stale one has another ``phys_base``."""
    texts = _vmcoreinfo_texts(image, location, symbols)
    return next((info for text in texts if (info := location.own(VmcoreInfo(text)))), None)


def _vmcoreinfo_texts(image: Image, location: Location, symbols: SymbolTable | None) -> Iterator[bytes]:
    """What the kernel was found by, where its pointer leads, and what begins a page like one."""
    if location.vmcoreinfo:
        yield location.vmcoreinfo.text
    pointer = symbols.address_of("vmcoreinfo_data") if symbols else None
    if symbols and pointer is not None:
        try:
            where = int.from_bytes(image.read(location.translate(pointer), 8), "little")
            yield image.read(where - direct_map_base(image, location, symbols), LARGEST)
        except (MissingMemory, OverflowError, ValueError):
            pass
    yield from texts_at_page_starts(image)


def _made_up_vmcoreinfo(image: Image, location: Location, symbols: SymbolTable) -> VmcoreInfo:
    """A VMCOREINFO for a kernel whose own is not in the image, with what reading memory takes."""
    try:
        found = BANNER.search(
            image.read(location.physical + location.text_size, location.size - location.text_size)
        )
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

    Other copies in memory (of the file that was booted, of an earlier decompression) are often torn and
    never needed.
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
