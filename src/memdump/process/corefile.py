"""The form of an ELF core, up to where the memory begins."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import MemdumpError
from memdump.machine.host import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

_IDENTIFICATION = b"\x7fELF%c\x01\x01" + bytes(9)
_ET_CORE, _PT_LOAD, _PT_NOTE = 4, 1, 4
_MANY = 0xFFFF
"""Stands for a number of program headers that has no room in the header (``PN_XNUM``, ``elf(5)``)."""


class _Form(NamedTuple):
    """What differs between cores of 32 and of 64 bits (``elf(5)``)."""

    number: int
    """Of the class."""
    header: struct.Struct
    program: struct.Struct
    section: struct.Struct
    limit: int
    """The first place in the file that a program header cannot name."""


_FORMS = {
    32: _Form(
        1,
        struct.Struct("<16sHHIIIIIHHHHHH"),
        struct.Struct("<IIIIIIII"),
        struct.Struct("<IIIIIIIIII"),
        1 << 32,
    ),
    64: _Form(
        2,
        struct.Struct("<16sHHIQQQIHHHHHH"),
        struct.Struct("<IIQQQQQQ"),
        struct.Struct("<IIQQQQIIQQ"),
        1 << 64,
    ),
}


class Segment(NamedTuple):
    """Addresses of the process."""

    start: int
    size: int
    in_file: int
    """Bytes of these, from the start, that are in the core."""
    flags: int


def begin(machine: int, notes: bytes, segments: Sequence[Segment], bits: int = 64) -> bytes:
    """Give the bytes in front of the memory, which follows in the order of the segments, without gaps.

    Raises `MemdumpError` where a core of 32 bits has no room for that much.
    """
    form = _FORMS[bits]
    memory_at = in_pages(_size(form, len(segments)) + len(notes))
    places, at = [], memory_at
    for found in segments:
        places.append(at)
        at += found.in_file
    front = b"".join(_front(form, machine, notes, segments, places, form.header.size))
    return front + bytes(memory_at - len(front))


def around(
    machine: int, notes: bytes, segments: Sequence[Segment], places: Sequence[int], room: int, end: int
) -> list[tuple[int, bytes]]:
    """Give what goes with memory that is in the file already: places and bytes.

    ``places`` says where each segment is.  In front of them all there are ``room`` bytes; what has no room
    there goes behind them, to ``end``.
    """
    form = _FORMS[64]
    fits = _size(form, len(segments)) + len(notes) <= room
    tables_at = form.header.size if fits else end
    header, tables = _front(form, machine, notes, segments, places, tables_at)
    return [(0, header), (tables_at, tables)]


def in_pages(size: int) -> int:
    """Give the bytes of as many whole pages as it takes."""
    return -(-size // PAGE_SIZE) * PAGE_SIZE


def _size(form: _Form, segments: int) -> int:
    """Give the bytes of all but notes and memory."""
    count = segments + 1
    return form.header.size + (form.section.size if count >= _MANY else 0) + count * form.program.size


def _front(
    form: _Form,
    machine: int,
    notes: bytes,
    segments: Sequence[Segment],
    places: Sequence[int],
    tables_at: int,
) -> tuple[bytes, bytes]:
    """Give the header, and the tables with the notes."""
    count = len(segments) + 1
    section = form.section.pack(0, 0, 0, 0, 0, 0, 0, count, 0, 0) if count >= _MANY else b""
    programs_at = tables_at + len(section)
    notes_at = programs_at + count * form.program.size
    header = form.header.pack(
        _IDENTIFICATION % form.number,
        _ET_CORE,
        machine,
        1,  # version
        0,  # entry
        programs_at,
        tables_at if section else 0,
        0,  # flags
        form.header.size,
        form.program.size,
        _MANY if section else count,
        form.section.size if section else 0,
        1 if section else 0,
        0,
    )
    programs = [_program(form, _PT_NOTE, Segment(0, 0, len(notes), 0), notes_at, 4)]
    for found, at in zip(segments, places):  # noqa: B905 (Python 3.8)
        if at >= form.limit:
            raise MemdumpError("a core of a 32-bit process has room for 4 GiB: leave out some of it (--skip)")
        programs.append(_program(form, _PT_LOAD, found, at, PAGE_SIZE))
    return header, b"".join((section, *programs, notes))


def _program(form: _Form, kind: int, found: Segment, at: int, alignment: int) -> bytes:
    place = (at, found.start, 0, found.in_file, found.size)
    if form is _FORMS[32]:
        return form.program.pack(kind, *place, found.flags, alignment)
    return form.program.pack(kind, found.flags, *place, alignment)
