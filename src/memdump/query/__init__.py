"""SQL over the tables, by DuckDB inside this process.

The tables that a query names are read from the image into DuckDB's memory: `Address` columns are
``UBIGINT``, other integers ``BIGINT`` (``HUGEINT`` where a value does not fit), times ``TIMESTAMP`` in UTC.
A query can touch no file, no network and no extension, and nothing is spilt to disk.

Like `memdump.dump`, this stands beside the folders of the way the data goes, because it joins them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from memdump import tables
from memdump.query.answer import Answer
from memdump.query.loading import build
from memdump.query.sql import explained, named_tables, text, with_decimal_numbers

if TYPE_CHECKING:
    from memdump.dump import Dump

__all__ = ["Answer", "ask"]

_SETTINGS = {
    "TimeZone": "'UTC'",
    "temp_directory": "''",
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "enable_external_access": "false",
    "lock_configuration": "true",
}


def ask(dump: Dump, sql: str, *, output: str | None = None) -> Answer:
    """Build the tables that ``sql`` names and run it; ``output`` is the one path that may be written.

    Hexadecimal numbers are understood: ``address = 0xffff888003a54000``.  Raises `UsageError` with DuckDB's
    words where the SQL is wrong.
    """
    sql = with_decimal_numbers(sql)
    with explained():
        connection = duckdb.connect(":memory:")
        if output is not None:
            connection.execute(f"SET allowed_paths = [{text(output)}]")
        for setting, value in _SETTINGS.items():
            connection.execute(f"SET {setting} = {value}")
        named = named_tables(connection, sql)
        for name in named:
            build(connection, dump, name)
    details = {column.name for name in named for column in tables.find(name).columns if column.detail}
    return Answer(connection, sql, details)
