"""Which columns of a table are shown, and how wide, in the room that a terminal has."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from memdump.report.text import cut, pad, width
from memdump.report.values import NOTHING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdump.tables.schema import Column

GAP = "  "
LONGEST_PADDING = 60
"""Without a width, one long cell pushes its row to the right, not every row."""
NARROWEST = 16
"""Text is cut no shorter than this to make room for other columns,"""
NARROWEST_WRAPPED = 36
"""unless it is the last column, which is wrapped,"""
SHORTEST = 8
"""or the reader chose the columns."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the columns of a table are arranged; indices are those of ``columns``."""

    columns: Sequence[Column]
    kept: list[int]
    dropped: list[int]
    widths: list[int]
    cuts: bool
    """Cells are cut to their column's width; otherwise they are only padded to it."""
    wraps: bool
    """The last column is continued on further lines."""
    shortens: bool = False
    """Some cell is cut, or some column dropped."""

    @property
    def total(self) -> int:
        """The width of a line."""
        return sum(self.widths[index] for index in self.kept) + len(GAP) * (len(self.kept) - 1)

    def place(self, index: int, cell: str) -> str:
        """Fit a cell into its column: numbers to the right."""
        if self.cuts:
            cell = cut(cell, self.widths[index])
        return pad(cell, self.widths[index], right=_is_number(self.columns[index]))

    def headings(self) -> list[list[str]]:
        """The lines of the heading: a name longer than its column is broken at an underscore."""
        names = [_broken(self.columns[index].name, self.widths[index]) for index in self.kept]
        lines = zip_longest(*(reversed(name) for name in names), fillvalue="")
        return [list(line) for line in reversed(list(lines))]


def arrange(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], room: int | None, *, chosen: bool = False
) -> Layout:
    """Choose columns and widths for ``room`` columns of a terminal or for no limit, by a sample of cells.

    Where the reader has ``chosen`` the columns, text is rather cut shorter than a column dropped.
    """
    contents = [max(map(width, column), default=0) for column in zip(*cells, strict=True)]
    contents = contents or [0] * len(columns)
    natural = [max(content, len(column.name)) for content, column in zip(contents, columns, strict=True)]
    everything = list(range(len(columns)))
    if room is None:
        widths = [min(wide, LONGEST_PADDING) for wide in natural]
        return Layout(columns, everything, [], widths, cuts=False, wraps=False)
    whole = Layout(columns, everything, [], natural, cuts=True, wraps=False)
    if whole.total <= room:
        return whole
    wanted = [max(content, _heading(column.name)) for content, column in zip(contents, columns, strict=True)]
    least = _least(columns, wanted, SHORTEST if chosen else NARROWEST)
    if not chosen and columns[-1].type is str:
        least[-1] = min(wanted[-1], NARROWEST_WRAPPED)
    kept, dropped = _choose(columns, cells, least, room)
    widths = _widen(kept, least, wanted, room)
    wraps = not dropped and columns[-1].type is str
    shortens = bool(dropped) or any(widths[i] < wanted[i] for i in (everything[:-1] if wraps else everything))
    return Layout(columns, kept, dropped, widths, cuts=True, wraps=wraps, shortens=shortens)


def _choose(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], least: Sequence[int], room: int
) -> tuple[list[int], list[int]]:
    """Drop columns until the others fit: those that say nothing first, then details, then from the right."""
    silent = {
        index
        for index, column in enumerate(zip(*cells, strict=True))
        if all(cell in ("", "no", NOTHING) for cell in column)
    }
    order = sorted(
        range(1, len(columns)), key=lambda index: (index not in silent, not columns[index].detail, -index)
    )
    kept = set(range(len(columns)))
    for index in order:
        if sum(least[i] for i in kept) + len(GAP) * (len(kept) - 1) <= room:
            break
        kept.remove(index)
    return sorted(kept), [index for index in range(len(columns)) if index not in kept]


def _widen(kept: Sequence[int], least: Sequence[int], wanted: Sequence[int], room: int) -> list[int]:
    """Share what room is left among the columns that want more, so that as many as can be are whole."""
    widths = list(least)
    spare = room - sum(least[index] for index in kept) - len(GAP) * (len(kept) - 1)
    waiting = sorted(
        (index for index in kept if wanted[index] > least[index]), key=lambda index: wanted[index]
    )
    for position, index in enumerate(waiting):
        given = min(wanted[index] - least[index], max(spare, 0) // (len(waiting) - position))
        widths[index] += given
        spare -= given
    return widths


def _least(columns: Sequence[Column], wanted: Sequence[int], shortest: int) -> list[int]:
    """Text may be cut to ``shortest``; numbers and times are shown whole or not at all."""
    return [
        min(wide, shortest) if column.type in (str, object) else wide
        for column, wide in zip(columns, wanted, strict=True)
    ]


def _is_number(column: Column) -> bool:
    return column.type in (int, float)


def _heading(name: str) -> int:
    """The least width of a name that may be broken at one underscore."""
    return min(max(map(len, _halves(name, at))) for at in _breaks(name))


def _broken(name: str, room: int) -> list[str]:
    if len(name) <= room:
        return [name]
    return _halves(name, min(_breaks(name), key=lambda at: max(map(len, _halves(name, at)))))


def _breaks(name: str) -> list[int]:
    """Where ``name`` may be broken: behind an underscore, or not at all."""
    return [at + 1 for at, character in enumerate(name) if character == "_"] or [len(name)]


def _halves(name: str, at: int) -> list[str]:
    return [part for part in (name[:at], name[at:]) if part]
