"""Rows for people: a table as wide as the terminal, or a record per row where there are few.

Without a width, nothing is cut or left out and no column depends on where the output goes.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TextIO

from memdump.report import READABLE
from memdump.report.layout import GAP, Layout, arrange
from memdump.report.text import pad, wrap
from memdump.report.values import NOTHING, formatter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memdump.tables.schema import Column

SAMPLE = 1000
"""Rows that are looked at before the widths are settled; those behind them are written as they come."""
FEW = 3
"""So many rows are shown as records where they do not fit as a table."""
MOST_LINES = 5
"""A cell that is wrapped takes no more lines."""

BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"

Cells = tuple[str, ...]


def write(
    columns: Sequence[Column],
    rows: Iterable[Sequence[Any]],
    out: TextIO,
    *,
    room: int | None = None,
    colour: bool = False,
    chosen: bool = False,
) -> list[str]:
    """Write ``rows`` into ``room`` columns of a terminal and return what the reader should be told about it.

    ``chosen`` says that the reader asked for just these columns, so none is left out.
    """
    formatters = [formatter(column, "seconds" if room else "microseconds") for column in columns]
    cells = (tuple(show(value) for show, value in zip(formatters, row, strict=True)) for row in rows)
    sample = list(islice(cells, SAMPLE))
    layout = arrange(columns, sample, room, chosen=chosen)
    too_wide = layout.shortens or layout.total > (room or READABLE)
    if sample and ((too_wide and len(sample) <= FEW) or (layout.dropped and chosen)):
        _write_records(columns, chain(sample, cells), out, room, colour)
        return []
    out.writelines(_table(layout, chain(sample, cells), colour))
    return _notes(layout)


def _table(layout: Layout, rows: Iterable[Cells], colour: bool) -> Iterator[str]:
    for line in layout.headings():
        text = GAP.join(map(layout.place, layout.kept, line)).rstrip()
        yield f"{BOLD}{text}{PLAIN}\n" if colour else f"{text}\n"
    for row in rows:
        yield from _lines(layout, [row[index] for index in layout.kept], colour)


def _lines(layout: Layout, cells: list[str], colour: bool) -> Iterator[str]:
    """A row, which is more than one line only where its last cell is wrapped."""
    more: list[str] = []
    if layout.wraps:
        cells[-1], *more = wrap(cells[-1], layout.widths[layout.kept[-1]], MOST_LINES)
    parts = list(map(layout.place, layout.kept, cells))
    text = GAP.join(_dimmed(parts) if colour else parts).rstrip()
    yield f"{text}\n"
    indent = " " * (layout.total - layout.widths[layout.kept[-1]])
    yield from (f"{indent}{line}\n" for line in more)


def _dimmed(parts: list[str]) -> list[str]:
    return [f"{DIM}{part}{PLAIN}" if part.strip() == NOTHING else part for part in parts]


def _write_records(
    columns: Sequence[Column], rows: Iterable[Cells], out: TextIO, room: int | None, colour: bool
) -> None:
    margin = max(len(column.name) for column in columns) + len(GAP)
    for number, row in enumerate(rows):
        out.write("\n" if number else "")
        for column, cell in zip(columns, row, strict=True):
            name = pad(column.name, margin)
            first, *more = wrap(cell, max(room - margin, 20)) if room else [cell]
            out.write(f"{BOLD}{name}{PLAIN}{first}\n" if colour else f"{name}{first}".rstrip() + "\n")
            out.writelines(f"{' ' * margin}{line}\n" for line in more)


def _notes(layout: Layout) -> list[str]:
    if not layout.dropped:
        return []
    names = ", ".join(layout.columns[index].name for index in layout.dropped)
    return [f"no room for {names}: choose columns, or see all with --format json or in a pipe"]
