"""ELF cores of whole machines: QEMU and virsh dumps, vmcores of kexec, copies of ``/proc/kcore``, VirtualBox.

Each ``PT_LOAD`` gives memory at its ``p_paddr``.  Where writers differ:

- QEMU with paging, and kexec, give the same memory more than once under different virtual addresses, which is
  no defect.
- ``/proc/kcore`` says -1 where a segment is not RAM (``fs/proc/kcore.c``; since 4.11), and before that 0
  everywhere: then the physical address follows from where the segment lies in the direct map.
- makedumpfile leaves pages out by a ``p_filesz`` that is smaller than ``p_memsz``, and marks an output that
  ran out of disk in ``e_flags`` (makedumpfile, ``IMPLEMENTATION``).
- VirtualBox gives MMIO of devices as memory, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.errors import NotADump
from memdump.image.elf import (
    ARCHITECTURES,
    ET_CORE,
    PT_LOAD,
    PT_NOTE,
    find_vmcoreinfo,
    parse_header,
    program_headers,
)
from memdump.image.mapped import MappedImage
from memdump.image.segments import ADDRESS_SPACE, Segment

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.image.content import Content
    from memdump.image.elf import Elf, ProgramHeader

INCOMPLETE = 1
GIB = 1 << 30
LARGEST_RAM = 1 << 44
"""No segment of a kernel core that is larger than this is RAM: it is vmalloc space or vmemmap."""


class ElfImage(MappedImage):
    """The memory of a machine as an ELF core."""

    format = "elf"

    def __init__(self, path: Path, content: Content, defects: list[str]) -> None:
        elf = parse_header(path, content)
        if elf.type != ET_CORE:
            raise NotADump(
                f"{path}: is an ELF program or library, not a core; give the dump of a machine's memory"
            )
        headers = list(program_headers(content, elf))
        if len(headers) < elf.program_count:
            defects.append(
                f"truncated: {len(headers)} of {elf.program_count} program headers are in the file"
            )
        if elf.flags & INCOMPLETE:
            defects.append("incomplete: makedumpfile ran out of disk while it wrote this")
        self.vmcoreinfo = _vmcoreinfo(content, elf, headers)
        self.architecture = ARCHITECTURES.get(elf.machine)
        loads = _physical(path, elf, [found for found in headers if found.type == PT_LOAD])
        segments = _segments(content, loads, defects)
        if not segments:
            why = defects[0] if defects else "it has no PT_LOAD segment with a physical address"
            raise NotADump(f"{path}: is an ELF core that holds no memory: {why}; take it again")
        super().__init__(path, content, segments, defects)
        if self.size > len(content):
            raise NotADump(
                f"{path}: is an ELF core whose segments give the same bytes more than once; it is damaged"
            )


def _vmcoreinfo(content: Content, elf: Elf, headers: list[ProgramHeader]) -> bytes | None:
    for found in headers:
        if found.type == PT_NOTE and (
            text := find_vmcoreinfo(content, found.offset, found.filesz, elf.order)
        ):
            return text
    return None


def _physical(path: Path, elf: Elf, loads: list[ProgramHeader]) -> list[ProgramHeader]:
    """Keep the segments that are RAM, with their physical addresses made out where the file lacks them."""
    nowhere = (1 << elf.bits) - 1
    if any(found.paddr not in (0, nowhere) for found in loads) or not any(found.vaddr for found in loads):
        return [found for found in loads if found.paddr != nowhere]
    direct = [found for found in loads if found.vaddr >> (elf.bits - 1)]
    if not direct:
        raise NotADump(f"{path}: is the core of one process, not of a machine; open it with gdb")
    # The direct map is the lowest of the kernel's areas and begins at a multiple of 1 GiB, with physical 0.
    base = min(found.vaddr for found in direct) // GIB * GIB
    return [
        found._replace(paddr=found.vaddr - base)
        for found in direct
        if found.vaddr + found.memsz - base <= LARGEST_RAM
    ]


def _segments(content: Content, loads: list[ProgramHeader], defects: list[str]) -> list[Segment]:
    segments = []
    cut = missing = 0
    for found in loads:
        size = max(0, min(found.filesz, len(content) - found.offset, ADDRESS_SPACE - found.paddr))
        if size < found.filesz:
            cut, missing = cut + 1, missing + found.filesz - size
        if size:
            segments.append(Segment(found.paddr, size, found.offset))
    if cut:
        defects.append(f"truncated: {missing} bytes of {cut} segments lie behind the end of the file")
    return segments
