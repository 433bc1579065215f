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


def pad(text: str, room: int, *, right: bool = False) -> str:
    """Fill ``text`` up with spaces to ``room`` columns, to the right end of them if so asked."""
    filling = " " * (room - width(text))
    return filling + text if right else text + filling


def cut(text: str, room: int) -> str:
    """Shorten ``text`` to ``room`` columns: a path loses its beginning, anything else its end."""
    if width(text) <= room:
        return text
    if text.startswith("/") and " " not in text:
        return "…" + _fitting(text[::-1], room - 1)[::-1]
    return _fitting(text, room - 1) + "…"


def wrap(text: str, room: int, most: int | None = None) -> list[str]:
    """Break ``text`` into at most ``most`` lines of ``room`` columns, at spaces where it has them."""
    lines: list[str] = []
    while width(text) > room and len(lines) + 1 != most:
        line = _fitting(text, room) or text[0]
        at = line.rfind(" ") + 1
        line = line[:at] if at > len(line) // 2 else line
        lines.append(line.rstrip())
        text = text[len(line) :]
    return [*lines, cut(text, room).rstrip()]


def _fitting(text: str, room: int) -> str:
    """The beginning of ``text`` that takes no more than ``room`` columns."""
    if text.isascii():
        return text[:room]
    used = 0
    for index, character in enumerate(text):
        used += width(character)
        if used > room:
            return text[:index]
    return text
