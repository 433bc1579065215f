"""The parts of ELF that a core is made of: header, program headers, notes (System V ABI, "Object Files")."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import NotADump
from memdump.image.content import unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memdump.image.content import Content

MAGIC = b"\x7fELF"
CLASS32, CLASS64 = 1, 2
LITTLE, BIG = 1, 2
ET_CORE = 4
PT_LOAD, PT_NOTE = 1, 4
PN_XNUM = 0xFFFF
"""In place of a number of program headers: the number stands in ``sh_info`` of the first section header."""

ARCHITECTURES = {
    3: "i686",
    21: "ppc64le",
    22: "s390x",
    40: "armv7l",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    258: "loongarch64",
}

MOST_NOTES = 1 << 16
LARGEST_VMCOREINFO = 1 << 20


class Layout(NamedTuple):
    """The sizes and orders of fields of one ELF class, without the byte order."""

    header: str
    """Behind the 16 bytes of identification."""
    program: str
    section: str
    order: tuple[int, int, int, int, int, int, int]
    """Where in a program header the fields of `ProgramHeader` are."""


LAYOUTS = {
    CLASS32: Layout("HHIIIIIHHHHHH", "IIIIIIII", "10I", (0, 6, 1, 2, 3, 4, 5)),
    CLASS64: Layout("HHIQQQIHHHHHH", "IIQQQQQQ", "IIQQQQIIQQ", (0, 1, 2, 3, 4, 5, 6)),
}


class ProgramHeader(NamedTuple):
    """A segment of the file and the memory it gives."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int


class Elf(NamedTuple):
    """What the header says."""

    bits: int
    order: str
    """Byte order as `struct` spells it."""
    type: int
    machine: int
    flags: int
    program_offset: int
    program_entry: int
    program_count: int


def parse_header(path: Path, content: Content) -> Elf:
    """Read the header; raises `NotADump` where it makes no sense."""
    identification = content[:16]
    layout = LAYOUTS.get(identification[4]) if len(identification) == 16 else None
    order = {LITTLE: "<", BIG: ">"}.get(identification[5]) if layout else None
    if layout is None or order is None:
        raise NotADump(
            f"{path}: begins like an ELF file, but its class or byte order is unknown; it is damaged"
        )
    fields = unpack(content, struct.Struct(order + layout.header), 16)
    if fields is None:
        raise NotADump(f"{path}: truncated inside the ELF header; take the dump again")
    kind, machine, _, _, offset, section_offset, flags, _, entry, count, *_ = fields
    if count == PN_XNUM:
        section = unpack(content, struct.Struct(order + layout.section), section_offset)
        count = section[7] if section else count
    return Elf(32 * identification[4], order, kind, machine, flags, offset, entry, count)


def program_headers(content: Content, elf: Elf) -> Iterator[ProgramHeader]:
    """Give the program headers that the file really has."""
    layout = LAYOUTS[elf.bits // 32]
    form = struct.Struct(elf.order + layout.program)
    if elf.program_entry < form.size:
        return
    for number in range(elf.program_count):
        fields = unpack(content, form, elf.program_offset + number * elf.program_entry)
        if fields is None:
            return
        yield ProgramHeader(*(fields[position] for position in layout.order))


class Note(NamedTuple):
    """A note: whose it is, what it is, and where in the file its content is."""

    name: bytes
    type: int
    offset: int
    size: int


def notes(content: Content, offset: int, size: int, order: str = "<") -> Iterator[Note]:
    """Give the notes in a part of the file."""
    form = struct.Struct(order + "III")
    end = min(offset + size, len(content))
    for _ in range(MOST_NOTES):
        fields = unpack(content, form, offset)
        if fields is None or offset + form.size > end:
            return
        name_size, content_size, kind = fields
        name_at = offset + form.size
        content_at = name_at + _padded(name_size)
        offset = content_at + _padded(content_size)
        if content_at + content_size > end:
            return
        name = content[name_at : name_at + min(name_size, 64)].rstrip(b"\0")
        yield Note(name, kind, content_at, content_size)


def _padded(size: int) -> int:
    return -(-size // 4) * 4


def find_vmcoreinfo(content: Content, offset: int, size: int, order: str = "<") -> bytes | None:
    """Give the text of the VMCOREINFO note, where there is one."""
    for note in notes(content, offset, size, order):
        if note.name == b"VMCOREINFO" and 0 < note.size <= LARGEST_VMCOREINFO:
            return content[note.offset : note.offset + note.size].rstrip(b"\0")
    return None
