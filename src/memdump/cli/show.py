"""``memdump show``: one table."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from memdump import tables
from memdump.cli import _image, _outcome, _output
from memdump.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from memdump.dump import Dump
    from memdump.tables.schema import Column, Table

SUMMARY = "show one table of what was going on"
EXAMPLE = "memdump show server.lime processes --where 'uid > 0 and not kernel_thread' --columns pid,name"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    _image.add_arguments(parser)
    parser.add_argument("table", metavar="TABLE", help="a table that 'memdump tables' lists")
    parser.add_argument("--where", metavar="CONDITION", help="only rows for which this SQL expression holds")
    parser.add_argument("--columns", metavar="NAME,...", help="only these columns, in this order")
    parser.add_argument("--limit", metavar="N", type=int, help="no more than N rows")
    _output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Show the table."""
    table = tables.find(args.table)
    columns = _columns(table, args.columns)
    if args.limit is not None and args.limit < 0:
        raise UsageError("--limit must not be negative")
    with _image.open_dump(args) as dump, _output.Output(args) as output:
        if output.binary:
            output.write_parquet(_ask(dump, args, columns, output.address))
        elif args.where is not None:
            output.write(columns, _ask(dump, args, columns), chosen=args.columns is not None)
        else:
            rows = _rows(dump, args.table, columns, args.limit)
            output.write(columns, rows, chosen=args.columns is not None)
        return _outcome.status(dump)


def _columns(table: Table, names: str | None) -> Sequence[Column]:
    if names is None:
        return table.columns
    known = {column.name: column for column in table.columns}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise UsageError(f"{table.name} has no column {name!r}; it has {', '.join(known)}")
    if not wanted:
        raise UsageError("--columns names no column")
    return [known[name] for name in dict.fromkeys(wanted)]


def _rows(dump: Dump, table: str, columns: Sequence[Column], limit: int | None) -> Iterable[Sequence[Any]]:
    from itertools import islice

    rows = islice(dump.table(table), limit)
    if len(columns) == 1:
        get = attrgetter(columns[0].name)
        return ((get(row),) for row in rows)
    return map(attrgetter(*(column.name for column in columns)), rows)


def _ask(dump: Dump, args: argparse.Namespace, columns: Sequence[Column], address: str | None = None) -> Any:
    from memdump.query import ask
    from memdump.query.sql import identifier

    selected = ", ".join(identifier(column.name) for column in columns)
    sql = f"SELECT {selected} FROM {identifier(args.table)}"  # noqa: S608 - the user asks his own computer
    if args.where is not None:
        sql += f" WHERE (\n{args.where}\n)"
    if args.limit is not None:
        sql += f" LIMIT {args.limit}"
    return ask(dump, sql, output=address)
