"""Rows as JSON (RFC 8259): one array of objects, or one object per line; written a row at a time.

The keys are the column names.  Integers are exact however great, times are ISO 8601 in UTC.  What a terminal
would obey or hide is escaped inside strings, which a reader of JSON undoes.
"""

from __future__ import annotations

import math
from datetime import datetime
from decimal import Decimal
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, TextIO

from memdump.report.text import well_formed
from memdump.report.values import iso

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memdump.tables.schema import Column


def write_array(columns: Sequence[Column], rows: Iterable[Sequence[Any]], out: TextIO) -> None:
    """Write one array of objects."""
    separator = "[\n"
    for line in _objects(columns, rows):
        out.write(separator + line)
        separator = ",\n"
    out.write("\n]\n" if separator == ",\n" else "[]\n")


def write_lines(columns: Sequence[Column], rows: Iterable[Sequence[Any]], out: TextIO) -> None:
    """Write an object per line."""
    out.writelines(line + "\n" for line in _objects(columns, rows))


def encode(value: Any) -> str:
    """A value of any type that a table or DuckDB has, as JSON.

    Numbers that JSON lacks (infinity, not a number) become null; bytes become hexadecimal text.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "null"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return _encode_rare(value)


def _encode_rare(value: Any) -> str:
    if isinstance(value, datetime):
        return f'"{iso(value)}"'
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    if isinstance(value, dict):
        members = (f"{_string(str(key))}: {encode(item)}" for key, item in value.items())
        return f"{{{', '.join(members)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(encode, value))}]"
    return _string(value.hex() if isinstance(value, bytes) else str(value))


def _objects(columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    keys = [_string(column.name) + ": " for column in columns]
    for row in rows:
        yield "{" + ", ".join([key + encode(value) for key, value in zip(keys, row, strict=True)]) + "}"


def _string(text: str) -> str:
    if text.isprintable():
        return encode_basestring(text)
    encoded = encode_basestring(well_formed(text))
    return "".join(c if c.isprintable() else _escape(c) for c in encoded)


def _escape(character: str) -> str:
    """A character by its UTF-16 code units, which is how JSON spells it."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
