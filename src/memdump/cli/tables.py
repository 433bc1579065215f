"""``memdump tables``: the tables and their columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump import tables
from memdump.cli import _output
from memdump.tables.schema import Column

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

SUMMARY = "list the tables, or the columns of one"
EXAMPLE = "memdump tables sockets"

TABLES = (Column("table", str, "Its name", nullable=False), Column("description", str, "What a row is"))
COLUMNS = (
    Column("column", str, "Its name", nullable=False),
    Column("type", str, "Its type", nullable=False),
    Column("description", str, "What it means, and its unit", nullable=False),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("table", metavar="TABLE", nargs="?", help="list the columns of this table")
    _output.add_arguments(parser, ("table", "json", "jsonl", "csv"))


def run(args: argparse.Namespace) -> int:
    """List them."""
    with _output.Output(args) as output:
        if args.table is None:
            output.write(TABLES, ((name, tables.find(name).doc) for name in tables.names()))
        else:
            output.write(COLUMNS, _columns(args.table))
    return 0


def _columns(name: str) -> Iterator[tuple[str, str, str]]:
    for column in tables.find(name).columns:
        kind = (
            "address"
            if column.hexadecimal
            else {"datetime": "time"}.get(column.type.__name__, column.type.__name__)
        )
        yield column.name, f"{kind} or nothing" if column.nullable else kind, column.doc
