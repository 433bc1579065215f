"""The form of an ELF core, up to where the memory begins."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from memdump.machine.host import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_IDENTIFICATION = b"\x7fELF\x02\x01\x01" + bytes(9)
_ET_CORE, _PT_LOAD, _PT_NOTE = 4, 1, 4
_MANY = 0xFFFF
"""Stands for a number of program headers that has no room in the header (``PN_XNUM``, ``elf(5)``)."""


class Segment(NamedTuple):
    """Addresses of the process."""

    start: int
    size: int
    in_file: int
    """Bytes of these, from the start, that are in the core."""
    flags: int


def begin(machine: int, notes: bytes, segments: Sequence[Segment]) -> bytes:
    """Give the bytes in front of the memory, which follows in the order of the segments, without gaps."""
    count = len(segments) + 1
    section = _SECTION.pack(0, 0, 0, 0, 0, 0, 0, count, 0, 0) if count >= _MANY else b""
    programs_at = _HEADER.size + len(section)
    notes_at = programs_at + count * _PROGRAM.size
    memory_at = -(-(notes_at + len(notes)) // PAGE_SIZE) * PAGE_SIZE
    header = _HEADER.pack(
        _IDENTIFICATION,
        _ET_CORE,
        machine,
        1,  # version
        0,  # entry
        programs_at,
        _HEADER.size if section else 0,
        0,  # flags
        _HEADER.size,
        _PROGRAM.size,
        _MANY if section else count,
        _SECTION.size if section else 0,
        1 if section else 0,
        0,
    )
    programs = [_PROGRAM.pack(_PT_NOTE, 0, notes_at, 0, 0, len(notes), 0, 4)]
    at = memory_at
    for found in segments:
        programs.append(
            _PROGRAM.pack(_PT_LOAD, found.flags, at, found.start, 0, found.in_file, found.size, PAGE_SIZE)
        )
        at += found.in_file
    front = b"".join((header, section, *programs, notes))
    return front + bytes(memory_at - len(front))
