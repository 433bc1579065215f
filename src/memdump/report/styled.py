"""Lines for a terminal, made of spans, so that what is coloured is safe and fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memdump.report.text import cut, visible, width

if TYPE_CHECKING:
    from collections.abc import Iterable


class Span(NamedTuple):
    """Text from anywhere, and how it is shown."""

    text: str
    style: str = ""


Line = tuple[Span, ...]

_CODES = {"title": "\x1b[1m", "faint": "\x1b[2m", "alert": "\x1b[1;31m", "": ""}
_END = "\x1b[0m"


def render(line: Iterable[Span], room: int, *, colour: bool) -> str:
    """A line cut to ``room`` columns; a style is seen only in colour, so the words must say the same."""
    parts = []
    for text, style in line:
        shown = cut(visible(text), room) if room > 0 else ""
        room -= width(shown)
        parts.append(f"{_CODES[style]}{shown}{_END}" if colour and style and shown else shown)
    return "".join(parts).rstrip()
