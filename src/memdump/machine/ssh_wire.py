"""What the two ends of an acquisition over ssh say to each other.

The near end asks (`REQUEST`), the far end answers each question in turn (`ANSWER`, then so many bytes).
Zeros are not sent: of a block that has some, only the other pieces are, behind a map of which these are.
"""

import struct
from typing import List, Tuple, Union

GREETING = b"\0memdump far end 1\n"
"""What the far end says first.  Whatever a login shell has printed before it is passed over."""

REQUEST = struct.Struct("<cQQ")
"""Kind, physical address, size in bytes."""
READ, FLAGS, NOW, RANGES = b"R", b"F", b"N", b"M"

ANSWER = struct.Struct("<cQ")
"""Kind, bytes that follow."""
DATA, SPARSE, ZEROS = b"D", b"S", b"Z"
"""To READ: all bytes; a map and the pieces that are not zeros; nothing, because all are zeros."""
PACKED = b"P"
"""To FLAGS: the bytes, compressed with zlib."""
TEXT = b"T"
"""JSON: who the far end is, unasked; to NOW, its clocks and the bytes of its memory that are broken; to
RANGES, what its system RAM is by now."""
FAULT = b"X"
"""An ``OSError``, as JSON: its number and its text."""
ERROR = b"E"
"""A `MemdumpError`, as JSON: its class and its message.  Nothing comes behind it."""

LARGEST = 64 << 20
"""Bytes of the longest answer that makes sense."""
PIECE = 4096

_NO_BYTES = bytes(PIECE)
Buffer = Union[bytes, bytearray, memoryview]


def pack(data: bytearray) -> Tuple[bytes, List[Buffer]]:
    """Give the kind of answer that carries ``data``, and its bytes in parts."""
    pieces = range(0, len(data), PIECE)
    full = [at for at in pieces if data[at : at + PIECE] != _NO_BYTES]
    if len(full) == len(pieces):
        return DATA, [data]
    if not full:
        return ZEROS, []
    table = bytearray((len(pieces) + 7) // 8)
    for at in full:
        index = at // PIECE
        table[index // 8] |= 1 << index % 8
    view = memoryview(data)
    return SPARSE, [table, *(view[at : at + PIECE] for at in full)]


def unpack(kind: bytes, payload: Buffer, size: int) -> bytes:
    """Give the ``size`` bytes that an answer carries; raises ``ValueError`` where it does not carry these."""
    if kind == ZEROS and not payload:
        return bytes(size)
    if kind == DATA and len(payload) == size:
        return bytes(payload)
    if kind != SPARSE:
        raise ValueError("not the memory that was asked for")
    count = -(-size // PIECE)
    place = -(-count // 8)
    table, data = bytes(payload[:place]).ljust(place, b"\0"), bytearray(size)
    for index in range(count):
        if table[index // 8] >> index % 8 & 1:
            at = index * PIECE
            length = min(PIECE, size - at)
            data[at : at + length] = bytes(payload[place : place + length]).ljust(length, b"\0")
            place += length
    if place != len(payload):
        raise ValueError("not as much memory as was asked for")
    return bytes(data)
