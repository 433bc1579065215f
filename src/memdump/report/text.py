"""Text that came out of an image, made safe to show and well formed to store.

Names and command lines are bytes that somebody chose, perhaps to deceive the reader's terminal.  Tables
decode them with ``surrogateescape``, so a byte that is not UTF-8 arrives here as a lone surrogate.
"""

from __future__ import annotations

_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def visible(text: str) -> str:
    r"""``text`` with every character spelt out that a terminal would obey, hide or reorder by.

    These are the characters that `str.isprintable` denies: controls (``\x1b``), format characters (among them
    the bidirectional overrides, ``\u202e``), spaces other than the space, unassigned and private ones; and
    bytes that were not UTF-8 (``\xff``).
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else spell(c) for c in text)


def well_formed(text: str) -> str:
    r"""``text`` as valid Unicode, everything else untouched: bytes that were not UTF-8 are spelt ``\xff``."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(spell(c) if "\ud800" <= c <= "\udfff" else c for c in text)
    return text


def spell(character: str) -> str:
    r"""Name a character by an escape: ``\xNN`` for ASCII controls and undecoded bytes, else ``\uNNNN``."""
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def width(text: str) -> int:
    """The columns that printable ``text`` takes on a terminal (Unicode Standard Annex 11)."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)
