"""Bech32 (BIP 173) without its limit on the length: how age writes its keys.

A word for the kind of thing, ``1``, and the bytes in five-bit letters, the last six of them a checksum.
"""

from __future__ import annotations

LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
CHECKSUM = 6


def encode(kind: str, data: bytes) -> str:
    """Write bytes down; in capitals where `kind` is."""
    values, rest, bits = _regroup(data, 8, 5)
    if bits:
        values.append(rest << 5 - bits)
    summed = _polymod([*_expand(kind.lower()), *values, *[0] * CHECKSUM]) ^ 1
    checksum = [summed >> 5 * (CHECKSUM - 1 - index) & 31 for index in range(CHECKSUM)]
    letters = "".join(LETTERS[value] for value in (*values, *checksum))
    return f"{kind}1{letters.upper() if kind.isupper() else letters}"


def decode(text: str) -> tuple[str, bytes]:
    """Give the kind, spelt as it is there, and the bytes; raises `ValueError` where it is not Bech32."""
    if not text.isascii() or text not in (text.lower(), text.upper()):
        raise ValueError("it mixes small letters and capitals, or has others")
    kind, mark, letters = text.rpartition("1")
    if not mark or not kind or not all("!" <= letter <= "~" for letter in kind):
        raise ValueError("it has no kind in front")
    values = [LETTERS.find(letter) for letter in letters.lower()]
    if len(values) < CHECKSUM or -1 in values:
        raise ValueError("it has letters that do not belong, or too few")
    if _polymod([*_expand(kind.lower()), *values]) != 1:
        raise ValueError("its checksum is wrong")
    data, rest, bits = _regroup(bytes(values[:-CHECKSUM]), 5, 8)
    if rest or bits >= 5:
        raise ValueError("its length makes no whole bytes")
    return kind, bytes(data)


def _expand(kind: str) -> list[int]:
    return [*(ord(letter) >> 5 for letter in kind), 0, *(ord(letter) & 31 for letter in kind)]


def _polymod(values: list[int]) -> int:
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, term in enumerate(GENERATOR):
            if top >> bit & 1:
                checksum ^= term
    return checksum


def _regroup(data: bytes, width: int, new: int) -> tuple[list[int], int, int]:
    """Cut bits anew; gives the bits that are left over, too, and how many those are."""
    groups = []
    held = bits = 0
    for value in data:
        held = held << width | value
        bits += width
        while bits >= new:
            bits -= new
            groups.append(held >> bits)
            held &= (1 << bits) - 1
    return groups, held, bits
