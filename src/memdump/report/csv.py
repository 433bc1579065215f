r"""Rows as CSV (RFC 4180) with a line of column names; an empty field is a value that is not there.

CSV cannot escape, and such files end up on terminals: what a terminal would obey or hide is spelt out as in
a table (``\x1b``, ``\n``), so a record is also always one line.  JSON and Parquet keep strings as they are.
"""

from __future__ import annotations

import csv
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from memdump.report.text import visible
from memdump.report.values import iso

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memdump.tables.schema import Column


def write(columns: Sequence[Column], rows: Iterable[Sequence[Any]], out: TextIO) -> None:
    """Write the names of the columns and the rows."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([visible(column.name) for column in columns])
    writer.writerows(map(_field, row) for row in rows)


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, dict | list | tuple | bytes):
        from memdump.report.json import encode

        return visible(encode(value))
    return str(value)
