"""The parts of a Zstandard file that memdump looks at itself.

Layouts: RFC 8878, sections 3.1.1 (frames and blocks) and 3.1.2 (skippable frames), and facebook/zstd
``contrib/seekable_format/zstd_seekable_compression_format.md``.
"""

from __future__ import annotations

import struct

SIGNATURE = b"\x28\xb5\x2f\xfd"
"""What a frame begins with."""
CHECKSUM = 4
"""What a frame may end with: the low half of XXH64 of what it gives."""
CHECKSUM_OF_NOTHING = 0x51D8E999

SKIPPABLE = struct.Struct("<II")
"""Magic number and length of a frame that readers skip."""
FIRST_SKIPPABLE, LAST_SKIPPABLE = 0x184D2A50, 0x184D2A5F

TABLE_MAGIC = 0x184D2A5E
FOOTER = struct.Struct("<IBI")
"""Behind the table's entries: their number, their kind, `FOOTER_MAGIC`."""
FOOTER_MAGIC = 0x8F92EAB1
WITH_CHECKSUMS, RESERVED = 0x80, 0x7C
"""Bits of the kind; no reader may know the reserved ones."""

METADATA_MAGIC = 0x184D2A5D
METADATA_TAG = b"memdump\0"
"""What our skippable frame begins with: its magic number is anyone's."""


def is_zstd(start: bytes) -> bool:
    """Tell whether a file that begins so is a Zstandard file; some begin with a frame that is skipped."""
    return start[:4] == SIGNATURE or FIRST_SKIPPABLE <= int.from_bytes(start[:4], "little") <= LAST_SKIPPABLE
