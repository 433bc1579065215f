"""Files of every format made by hand, so that a test can also make what no writer makes."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

import cramjam
import lzallright
import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAGE = 4096
Piece = tuple[int, bytes]
"""An address and the bytes there."""


def lime(pieces: Sequence[Piece]) -> bytes:
    return b"".join(
        struct.pack("<IIQQQ", 0x4C694D45, 1, start, start + len(data) - 1, 0) + data for start, data in pieces
    )


def avml(pieces: Sequence[Piece]) -> bytes:
    return b"".join(avml_block(start, data) for start, data in pieces)


def avml_block(start: int, data: bytes) -> bytes:
    stream = bytes(cramjam.snappy.compress(data))
    return (
        struct.pack("<4sIQQQ", b"AVML", 2, start, start + len(data) - 1, 0)
        + stream
        + struct.pack("<Q", len(stream))
    )


class Load(NamedTuple):
    """A ``PT_LOAD`` of a core."""

    paddr: int
    data: bytes
    vaddr: int = 0
    filesz: int | None = None
    memsz: int | None = None


def note(name: bytes, kind: int, content: bytes) -> bytes:
    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    return struct.pack("<III", len(name) + 1, len(content), kind) + padded(name + b"\0") + padded(content)


def elf(
    loads: Sequence[Load],
    notes: bytes = b"",
    *,
    machine: int = 62,
    kind: int = 4,
    flags: int = 0,
    section_count: bool = False,
) -> bytes:
    """A 64-bit core; with ``section_count`` the number of program headers stands in a section header."""
    count = len(loads) + 1
    shoff = 64 + 56 * count
    at = shoff + 64
    identification = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = identification + struct.pack(
        "<HHIQQQIHHHHHH",
        *(kind, machine, 1, 0, 64, shoff, flags, 64, 56),
        *((0xFFFF, 64, 1, 0) if section_count else (count, 64, 0, 0)),
    )
    programs = [struct.pack("<IIQQQQQQ", 4, 0, at, 0, 0, len(notes), len(notes), 4)]
    at += len(notes)
    for load in loads:
        size = len(load.data)
        filesz = size if load.filesz is None else load.filesz
        memsz = filesz if load.memsz is None else load.memsz
        programs.append(struct.pack("<IIQQQQQQ", 1, 7, at, load.vaddr, load.paddr, filesz, memsz, 0))
        at += size
    section = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, count, 0, 0)
    return header + b"".join(programs) + section + notes + b"".join(load.data for load in loads)


class Codec(NamedTuple):
    """How a kdump compresses a page: the flag of its descriptor, and the function."""

    flag: int
    compress: Callable[[bytes], bytes]


CODECS = {
    "none": Codec(0, bytes),
    "zlib": Codec(1, zlib.compress),
    "lzo": Codec(2, lambda page: lzallright.LZOCompressor().compress(page)),
    "snappy": Codec(4, lambda page: bytes(cramjam.snappy.compress_raw(page))),
    "zstd": Codec(0x20, zstandard.ZstdCompressor().compress),
}


def kdump(
    pages: dict[int, bytes],
    codec: str = "zlib",
    *,
    split: tuple[int, int] | None = None,
    order: str = "<",
    bits: int = 64,
    version: int = 6,
    vmcoreinfo: bytes = b"",
    status: int = 0,
) -> bytes:
    """A compressed kdump of these pages by number; ``split`` says which of them this file of several has."""
    flag, compress = CODECS[codec]
    most = max(pages) + 1
    bitmap = bytearray(-(-most // 8))
    for page in pages:
        bitmap[page // 8] |= 1 << page % 8
    half = -(-len(bitmap) // PAGE)
    every = b"\xff" * (most // 8)  # the pages that exist, of which the second bitmap has those that are kept
    maps = every.ljust(half * PAGE, b"\0") + bytes(bitmap).ljust(half * PAGE, b"\0")
    first, end = split or (0, most)
    here = [page for page in sorted(pages) if first <= page < end]
    info_at = PAGE + 512 if vmcoreinfo else 0
    names = b"".join(text.ljust(65, b"\0") for text in (b"Linux", b"host", b"6.1.0", b"#1", b"x86_64", b""))
    main, sub = {
        64: ("8si390s6x16xIiIIIIIIII", "QiiQQQQQQQQQQQ"),
        32: ("8si390s2x8xIiIIIIIII", "IiiIIQIQIQIQQQ"),
    }[bits]
    counts = [0] * (main.count("I") - 4)
    head = struct.pack(order + main, b"KDUMP   ", version, names, status, PAGE, 1, 2 * half, most, *counts)
    sub_head = struct.pack(
        order + sub, 0, 31, bool(split), first, end, info_at, len(vmcoreinfo), 0, 0, 0, 0, first, end, most
    )
    sub_head = sub_head.ljust(512, b"\0") + vmcoreinfo
    descriptors, data = [], []
    at = PAGE * (2 + 2 * half) + 24 * len(here)
    for page in here:
        packed = compress(pages[page])
        packed, how = (packed, flag) if len(packed) < PAGE else (pages[page], 0)
        descriptors.append(struct.pack(order + "QIIQ", at, len(packed), how, 0))
        data.append(packed)
        at += len(packed)
    start = head.ljust(PAGE, b"\0") + sub_head.ljust(PAGE, b"\0") + maps
    return start + b"".join(descriptors) + b"".join(data)


def flattened(pieces: Sequence[Piece]) -> bytes:
    header = b"makedumpfile\0\0\0\0" + struct.pack(">qq", 1, 1)
    body = b"".join(struct.pack(">qq", offset, len(data)) + data for offset, data in pieces)
    return header.ljust(4096, b"\0") + body + struct.pack(">qq", -1, -1)
