"""LiME, the format that acquisition writes: for each range a 32-byte header, then the bytes of the range.

The layout is that of LiME's own documentation (504ensicsLabs/LiME, ``doc/README.md``, "lime", version 1).
"""

import struct
from typing import Protocol

from memdump.machine.source import Range

HEADER = struct.Struct("<IIQQ8x")
"""Magic, version, first address, *last* address (inclusive), eight reserved bytes."""
MAGIC = 0x4C694D45
VERSION = 1


class Stream(Protocol):
    """What a header is written to: an open binary file, a compressor, a pipe."""

    def write(self, data: bytes, /) -> object:
        """Take all of ``data``."""


def header(found: Range) -> bytes:
    """Give the header that stands before the bytes of a range."""
    return HEADER.pack(MAGIC, VERSION, found.start, found.end - 1)


def write_header(stream: Stream, found: Range) -> None:
    """Begin a range; exactly ``found.size`` bytes have to follow before the next header."""
    stream.write(header(found))
