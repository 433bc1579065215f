"""``memdump query``: SQL over all tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.cli import _outcome, _output
from memdump.dump import Dump

if TYPE_CHECKING:
    import argparse

SUMMARY = "ask in SQL over all tables"
EXAMPLE = (
    'memdump query server.lime "select name, count(*) from processes join sockets using (pid) group by name"'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("image", metavar="IMAGE", help="the memory image, in any format")
    parser.add_argument(
        "sql", metavar="SQL", help="a SELECT in DuckDB's SQL; 'memdump tables' lists the tables"
    )
    _output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask."""
    from memdump.query import ask

    with Dump.open(args.image) as dump, _output.Output(args) as output:
        answer = ask(dump, args.sql, output=output.address if output.binary else None)
        if output.binary:
            output.write_parquet(answer)
        else:
            output.write(answer.columns, answer)
        return _outcome.status(dump)
