"""What is in a LiME image, by the words of LiME's documentation alone; run in guests too, by Python 3."""

from __future__ import annotations

import struct
import sys
from typing import BinaryIO

HEADER = struct.Struct("<IIQQ8s")
MAGIC, VERSION = 0x4C694D45, 1


def walk(image: BinaryIO) -> list[tuple[int, int]]:
    """Address and size of each range, to the very end of the file."""
    size = image.seek(0, 2)
    found, place = [], 0
    while place < size:
        image.seek(place)
        magic, version, first, last, _ = HEADER.unpack(image.read(HEADER.size))
        assert (magic, version) == (MAGIC, VERSION), hex(place)
        found.append((first, last + 1 - first))
        place += HEADER.size + last + 1 - first
    assert place == size, (place, size)
    return found


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:  # noqa: PTH123
        print(sum(size for _, size in walk(file)))
