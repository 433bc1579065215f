"""``memdump query``: SQL over all tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.cli import _image, _outcome, _output

if TYPE_CHECKING:
    import argparse

SUMMARY = "ask in SQL over all tables"
EXAMPLE = (
    'memdump query server.lime "select name, count(*) from processes join sockets using (pid) group by name"'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    _image.add_arguments(parser)
    parser.add_argument(
        "sql", metavar="SQL", help="a SELECT in DuckDB's SQL; 'memdump tables' lists the tables"
    )
    _output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask."""
    from memdump.query import ask

    with _image.open_dump(args) as dump, _output.Output(args) as output:
        answer = ask(dump, args.sql, output=output.address if output.binary else None)
        if output.binary:
            output.write_parquet(answer)
        else:
            output.write(answer.columns, answer)
        return _outcome.status(dump)
