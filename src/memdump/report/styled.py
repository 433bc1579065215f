"""Lines for a terminal, made of spans, so that what is coloured is safe and fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memdump.report.text import cut, visible, width, wrap

if TYPE_CHECKING:
    from collections.abc import Iterable


class Span(NamedTuple):
    """Text from anywhere, and how it is shown."""

    text: str
    style: str = ""


Line = tuple[Span, ...]

_CODES = {"title": "\x1b[1m", "faint": "\x1b[2m", "alert": "\x1b[1;31m", "": ""}
_END = "\x1b[0m"
NARROWEST = 20
"""Columns; text is not broken into narrower ones."""


def render(line: Iterable[Span], room: int, *, colour: bool) -> str:
    """A line cut to ``room`` columns; a style is seen only in colour, so the words must say the same."""
    parts = []
    for text, style in line:
        shown = cut(visible(text), room) if room > 0 else ""
        room -= width(shown)
        parts.append(f"{_CODES[style]}{shown}{_END}" if colour and style and shown else shown)
    return "".join(parts).rstrip()


def render_wrapped(line: Line, room: int | None, *, colour: bool) -> list[str]:
    """A line in as many of ``room`` columns as it takes, if there is a limit.

    What is continued is indented as the last span was, so that labels stand out.
    """
    whole = sum(width(visible(span.text)) for span in line)
    indent = sum(width(visible(span.text)) for span in line[:-1])
    if room is None or whole <= room or room - indent < NARROWEST:
        return [render(line, whole, colour=colour)]
    last = line[-1]
    parts = wrap(visible(last.text), room - indent)
    first = render((*line[:-1], Span(parts[0], last.style)), room, colour=colour)
    more = ((Span(" " * indent), Span(part, last.style)) for part in parts[1:])
    return [first, *(render(span, room, colour=colour) for span in more)]
