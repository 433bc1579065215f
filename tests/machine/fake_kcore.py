"""A kcore and an iomem in files, made from the layout in the ``fs/proc/kcore.c``, not by our parser."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096
DIRECT_MAP = 0xFFFF_8880_0000_0000
TEXT = 0xFFFF_FFFF_8100_0000
VMALLOC = 0xFFFF_C900_0000_0000
UNKNOWN = (1 << 64) - 1


class Load(NamedTuple):
    """A ``PT_LOAD`` header."""

    offset: int
    virtual: int
    physical: int
    size: int


def note(name: bytes, kind: int, content: bytes) -> bytes:
    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    return struct.pack("<III", len(name) + 1, len(content), kind) + padded(name + b"\0") + padded(content)


def headers(loads: list[Load], vmcoreinfo: bytes | None = b"OSRELEASE=6.1.0\n", order: str = "<") -> bytes:
    """The ELF header, the program headers and the notes, as the kernel writes them."""
    notes = note(b"CORE", 1, bytes(336)) + note(b"CORE", 3, bytes(136))
    if vmcoreinfo is not None:
        notes += note(b"VMCOREINFO", 0, vmcoreinfo)
    table = 64
    behind = table + 56 * (len(loads) + 1)
    ident = b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1]) + bytes(9)
    out = ident + struct.pack(
        order + "HHIQQQIHHHHHH", 4, 62, 1, 0, table, 0, 0, 64, 56, len(loads) + 1, 0, 0, 0
    )
    out += struct.pack(order + "IIQQQQQQ", 4, 0, behind, 0, 0, len(notes), 0, 0)
    for load in loads:
        out += struct.pack(
            order + "IIQQQQQQ", 1, 7, load.offset, load.virtual, load.physical, load.size, load.size, PAGE
        )
    return out + notes


class Machine(NamedTuple):
    """A machine with 160 KiB and some MiB of memory."""

    kcore: Path
    iomem: Path
    memory: dict[int, bytes]
    """The true bytes of each range, by its physical address."""


IOMEM = """\
00000000-00000fff : Reserved
00001000-00028bff : System RAM
00028c00-00028fff : Reserved
000c0000-000c05ff : Video ROM
00100000-003fffff : System RAM
  00200000-0021ffff : Kernel code
fec00000-fec003ff : IOAPIC 0
"""
"""The first range does not end at a page; the kernel leaves its last 0xc00 bytes out."""


def write(kcore: Path, memory: dict[int, bytes], more: int = 0, shift: int = 0) -> None:
    """Write a kcore of these ranges and the second view of the kernel image.

    With so many headers ``more``, as after memory was plugged in, all that follows is moved by ``shift``.
    """
    loads = [Load(0x9000000, VMALLOC, UNKNOWN, 1 << 45), Load(0x8000000, TEXT, 0x200000, 0x20000)]
    loads += [Load(0x10000 + start, DIRECT_MAP + start, start, len(data)) for start, data in memory.items()]
    loads += [
        Load(at, DIRECT_MAP + at, at, 0x10000) for at in range(1 << 32, (1 << 32) + (more << 16), 1 << 16)
    ]
    loads = [load._replace(offset=load.offset + shift) for load in loads]
    with kcore.open("r+b" if kcore.exists() else "wb") as file:
        file.write(headers(loads))
        for start, data in memory.items():
            file.seek(0x10000 + shift + start)
            file.write(data)


def make(folder: Path, size: int = 0x300000) -> Machine:
    """Write a kcore of two ranges and the second view of the kernel image, and the iomem to it.

    ``size`` is that of the second range, in bytes.
    """
    random_bytes = random.Random(0).randbytes
    memory = {0x1000: random_bytes(0x27000), 0x100000: random_bytes(size)}
    kcore, iomem = folder / "kcore", folder / "iomem"
    iomem.write_text(IOMEM.replace("003fffff", f"{0x100000 + size - 1:08x}"))
    write(kcore, memory)
    return Machine(kcore, iomem, memory)
