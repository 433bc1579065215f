"""The text of SQL: what it names, how it is quoted, and what DuckDB says when it is wrong."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import duckdb

from memdump import tables
from memdump.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NUMBER_OR_QUOTED = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | \b0[xX][0-9a-fA-F]+\b""",
    re.DOTALL | re.VERBOSE,
)


def named_tables(connection: duckdb.DuckDBPyConnection, sql: str) -> list[str]:
    """List the tables that ``sql`` reads, ``problems`` last, for the others add to it.

    DuckDB cannot always say before they exist (``JOIN … USING``, ``PIVOT``, several statements); then every
    word that is the name of a table counts.
    """
    try:
        words = {word.rpartition(".")[2] for word in connection.get_table_names(sql)}
    except duckdb.Error:
        words = set(re.findall(r"\w+", sql))
    words = {word.lower() for word in words}
    return sorted(words.intersection(tables.names()), key=lambda name: (name == "problems", name))


def with_decimal_numbers(sql: str) -> str:
    """Turn hexadecimal numbers into decimal ones: DuckDB takes ``0x10`` for a zero that is called ``x10``."""
    return _NUMBER_OR_QUOTED.sub(lambda m: str(int(m[0], 16)) if m[0][:2] in ("0x", "0X") else m[0], sql)


def identifier(name: str) -> str:
    """Quote the name of a table or a column."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Quote a string."""
    return "'" + value.replace("'", "''") + "'"


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn DuckDB's errors into one line for the user."""
    try:
        yield
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except duckdb.Error as error:
        message = str(error)
        if missing := re.search(r"Table with name (\S+) does not exist", message):
            tables.find(
                missing[1]
            )  # which suggests others than DuckDB, which knows only those that were built
        raise UsageError(_one_line(message)) from error


def _one_line(message: str) -> str:
    """DuckDB's message without the excerpt of the SQL and whatever else follows."""
    return " ".join(re.split(r"\n\s*\n|\nLINE |\nTraceback", message)[0].split())
