"""Writes an image as the ELF core of a machine, as crash, drgn, makedumpfile and gdb read it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from memdump.errors import UsageError
from memdump.image.copying import copy_memory, unwatched
from memdump.image.elf import (
    ARCHITECTURES,
    CLASS64,
    ET_CORE,
    LAYOUTS,
    LITTLE,
    MAGIC,
    PN_XNUM,
    PT_LOAD,
    PT_NOTE,
)

if TYPE_CHECKING:
    from memdump.image.base import Image
    from memdump.image.copying import Progress, Target

PAGE = 4096
BIG_ENDIAN = ("s390x",)
EXECUTABLE, WRITABLE, READABLE = 1, 2, 4

HEADER = struct.Struct("<" + LAYOUTS[CLASS64].header)
PROGRAM = struct.Struct("<" + LAYOUTS[CLASS64].program)
SECTION = struct.Struct("<" + LAYOUTS[CLASS64].section)
HEADER_SIZE = 16 + HEADER.size


def write_elf(
    image: Image,
    out: Target,
    vmcoreinfo: bytes | None,
    direct_map: int | None = None,
    progress: Progress = unwatched,
) -> None:
    """Write an image as an ELF core.

    ``vmcoreinfo`` becomes the VMCOREINFO note, without which few tools find the kernel.  ``direct_map`` is
    the virtual address at which the kernel maps physical 0; where it is known, the segments say it, so that
    gdb sees the kernel's data without following page tables.
    """
    if image.architecture in BIG_ENDIAN:
        raise UsageError(f"{out.path}: an ELF core of {image.architecture} is not written; use --to lime")
    note = _note(b"VMCOREINFO", vmcoreinfo) if vmcoreinfo else b""
    count = len(image.ranges) + 1
    extended = count >= PN_XNUM
    notes_at = HEADER_SIZE + (SECTION.size if extended else 0) + count * PROGRAM.size
    memory_at = -(-(notes_at + len(note)) // PAGE) * PAGE
    out.write(_header(image.architecture, count))
    if extended:
        out.write(SECTION.pack(0, 0, 0, 0, 0, 0, 0, count, 0, 0))
    out.write(PROGRAM.pack(PT_NOTE, 0, notes_at, 0, 0, len(note), len(note), 4))
    out.write(_loads(image, memory_at, direct_map))
    out.write(note)
    out.skip(memory_at - out.position)
    copy_memory(image, out, lambda _: None, progress)


def _header(architecture: str | None, count: int) -> bytes:
    machines = {name: number for number, name in ARCHITECTURES.items()}
    extended = count >= PN_XNUM
    identification = MAGIC + bytes([CLASS64, LITTLE, 1]) + bytes(9)
    return identification + HEADER.pack(
        ET_CORE,
        machines.get(architecture or "", machines["x86_64"]),
        1,  # version
        0,  # entry
        HEADER_SIZE + (SECTION.size if extended else 0),
        HEADER_SIZE if extended else 0,
        0,  # flags
        HEADER_SIZE,
        PROGRAM.size,
        PN_XNUM if extended else count,
        SECTION.size if extended else 0,
        1 if extended else 0,
        0,
    )


def _loads(image: Image, offset: int, direct_map: int | None) -> bytes:
    parts = []
    flags = READABLE | WRITABLE | EXECUTABLE
    for found in image.ranges:
        virtual = direct_map + found.start if direct_map else 0
        parts.append(
            PROGRAM.pack(
                PT_LOAD, flags, offset, virtual & (1 << 64) - 1, found.start, found.size, found.size, 0
            )
        )
        offset += found.size
    return b"".join(parts)


def _note(name: bytes, content: bytes) -> bytes:
    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    return struct.pack("<III", len(name) + 1, len(content), 0) + padded(name + b"\0") + padded(content)
