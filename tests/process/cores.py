"""Reading an ELF core, by its specification and nothing of memdump's."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Segment(NamedTuple):
    flags: int
    offset: int
    start: int
    in_file: int
    size: int


class Core:
    """An ELF core of 64 bits."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        header = struct.unpack_from("<16sHHIQQQIHHHHHH", self.data)
        assert header[0][:6] == b"\x7fELF\x02\x01"
        assert header[1] == 4
        count = header[10]
        if count == 0xFFFF:
            count = struct.unpack_from("<IIQQQQIIQQ", self.data, header[6])[7]
        programs = [struct.unpack_from("<IIQQQQQQ", self.data, header[5] + 56 * n) for n in range(count)]
        self.segments = [Segment(p[1], p[2], p[3], p[5], p[6]) for p in programs if p[0] == 1]
        (note,) = (p for p in programs if p[0] == 4)
        self.notes = list(self._notes(note[2], note[5]))

    def _notes(self, at: int, size: int):  # type: ignore[no-untyped-def]
        end = at + size
        while at < end:
            name, length, kind = struct.unpack_from("<III", self.data, at)
            at += 12
            owner = self.data[at : at + name - 1].decode()
            at += -(-name // 4) * 4
            yield owner, kind, self.data[at : at + length]
            at += -(-length // 4) * 4
        assert at == end

    def read(self, address: int, size: int) -> bytes:
        """Read memory that is in the core."""
        for found in self.segments:
            if found.start <= address < found.start + found.in_file:
                at = found.offset + address - found.start
                here = min(size, found.start + found.in_file - address)
                more = self.read(address + here, size - here) if here < size else b""
                return self.data[at : at + here] + more
        if not size:
            return b""
        raise LookupError(hex(address))

    def note(self, kind: int) -> bytes:
        """The first note of that type."""
        found: bytes = next(content for _, found, content in self.notes if found == kind)
        return found
