"""What has tainted a kernel or a module, in the letters that the kernel prints."""

from __future__ import annotations

LETTERS = "PFSRMBUDAWCIOELKXTNJ"
"""``taint_flags`` of ``kernel/panic.c``: the letter of each bit, from bit 0 on.

Bits are added, never changed.
"""


def letters(mask: int) -> str:
    """The letters of the bits that are set; a bit that has none here becomes ``?``."""
    bits = (bit for bit in range(mask.bit_length()) if mask >> bit & 1)
    return "".join(LETTERS[bit] if bit < len(LETTERS) else "?" for bit in bits)
