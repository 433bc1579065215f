"""Where rows go, for every command that shows rows: standard output or a file, in any format."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

from memdump.errors import UsageError
from memdump.report import FORMATS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from memdump.query import Answer
    from memdump.tables.schema import Column

LINES_AT_ONCE = 1000


def add_arguments(parser: argparse.ArgumentParser, formats: Sequence[str] = FORMATS) -> None:
    """Declare ``--format`` and ``--output``."""
    parser.add_argument(
        "--format",
        choices=formats,
        default=formats[0],
        metavar="FORMAT",
        help=f"how to write the rows: {', '.join(formats)} (default: %(default)s)",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="write to a new file instead of standard output; it must not exist"
    )


class Output:
    """The place that ``--format`` and ``--output`` ask for; a file appears only when it is whole."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._format: str = args.format
        self._file = None if args.output is None else _File(args.output)
        if sys.stdout is None and self._file is None:
            raise UsageError("standard output is closed: add --output FILE")
        if self.binary and self._file is None and sys.stdout.isatty():
            raise UsageError(f"{self._format} is not for a terminal: add --output FILE, or use a pipe")

    @property
    def binary(self) -> bool:
        """Whether the rows must be written by `write_parquet`."""
        return self._format == "parquet"

    @property
    def address(self) -> str:
        """The path by which DuckDB can write to it."""
        return self._file.file.part if self._file else f"/dev/fd/{sys.stdout.fileno()}"

    def write(
        self, columns: Sequence[Column], rows: Iterable[Sequence[Any]], *, chosen: bool = False
    ) -> None:
        """Write rows; ``chosen`` says that the user named the columns."""
        out: Any = self._file or sys.stdout
        if self._format == "table":
            _write_table(columns, rows, out, chosen)
        else:
            if out is sys.stdout and hasattr(out, "reconfigure"):
                out.reconfigure(encoding="utf-8")
            _writer(self._format)(columns, rows, out)

    def write_parquet(self, answer: Answer) -> None:
        """Write an answer whose query was given `address`."""
        answer.write_parquet(self.address)

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        with self._file.file as file:
            if kind is None:
                self._file.flush()
                file.commit()


class _File:
    """A new file as a text stream."""

    def __init__(self, path: str) -> None:
        from memdump.machine.output import Output as NewFile

        self.file = NewFile(path)
        self._waiting: list[str] = []

    def write(self, text: str) -> int:
        self._waiting.append(text)
        if len(self._waiting) >= LINES_AT_ONCE:
            self.flush()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self.file.write("".join(self._waiting).encode())
        self._waiting.clear()

    def isatty(self) -> bool:
        return False


def _write_table(columns: Sequence[Column], rows: Iterable[Sequence[Any]], out: TextIO, chosen: bool) -> None:
    from memdump.cli._terminal import colour, room
    from memdump.report.terminal import write

    if out is sys.stdout and hasattr(out, "reconfigure"):
        out.reconfigure(errors="backslashreplace")
    wide = room(out) if out is sys.stdout else None
    notes = write(columns, rows, out, room=wide, colour=colour(out), chosen=chosen)
    out.flush()
    for note in notes:
        print(f"memdump: {note}", file=sys.stderr)


def _writer(name: str) -> Callable[[Sequence[Column], Iterable[Sequence[Any]], TextIO], None]:
    if name == "csv":
        from memdump.report import csv

        return csv.write
    from memdump.report import json

    return json.write_array if name == "json" else json.write_lines
