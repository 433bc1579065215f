"""How the rows of a table get into DuckDB: a column at a time, as NumPy arrays, which it reads in place."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from memdump import tables
from memdump.query.sql import identifier
from memdump.report.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    from memdump.dump import Dump
    from memdump.tables.schema import Column

_SQL_TYPES: dict[type, str] = {
    int: "BIGINT",
    str: "VARCHAR",
    bool: "BOOLEAN",
    float: "DOUBLE",
    datetime: "TIMESTAMP",
}
_ELEMENTS: dict[str, type[np.generic]] = {
    "BIGINT": np.int64,
    "UBIGINT": np.uint64,
    "BOOLEAN": np.bool_,
    "DOUBLE": np.float64,
    "TIMESTAMP": np.int64,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def build(connection: duckdb.DuckDBPyConnection, dump: Dump, name: str) -> None:
    """Read a table from the image and create it."""
    columns = tables.find(name).columns
    rows = list(dump.table(name))
    if not rows:
        declared = (f"{identifier(column.name)} {_sql_type(column, ())}" for column in columns)
        connection.execute(f"CREATE TABLE {identifier(name)} ({', '.join(declared)})")
        return
    arrays: dict[str, Any] = {}
    selected = []
    for index, column in enumerate(columns):
        values = [getattr(row, column.name) for row in rows]
        expression = _add(arrays, f"v{index}", _sql_type(column, values), values)
        selected.append(f"{expression} AS {identifier(column.name)}")
    connection.register("memdump_rows", arrays)
    connection.execute(
        f"CREATE TABLE {identifier(name)} AS SELECT {', '.join(selected)} FROM memdump_rows"  # noqa: S608 - quoted
    )
    connection.unregister("memdump_rows")


def _sql_type(column: Column, values: Sequence[Any]) -> str:
    """Choose the type of a column: memory is dirty, so an integer may be greater than it is meant to be."""
    if column.type is not int:
        return _SQL_TYPES[column.type]
    kind, least, end = ("UBIGINT", 0, 2**64) if column.hexadecimal else ("BIGINT", -(2**63), 2**63)
    return kind if all(value is None or least <= value < end for value in values) else "HUGEINT"


def _add(arrays: dict[str, Any], name: str, kind: str, values: list[Any]) -> str:
    """Put a column into ``arrays`` and return the expression that reads it.

    Numbers go as a typed array and a mask: DuckDB would guess the type of objects from a sample of them.
    """
    if kind in ("VARCHAR", "HUGEINT"):
        arrays[name] = np.empty(len(values), dtype=object)
        arrays[name][:] = [None if value is None else well_formed(str(value)) for value in values]
        return f"{name}::{kind}"
    arrays[name] = np.fromiter(map(_number, values), _ELEMENTS[kind], len(values))
    expression = f"make_timestamp({name})" if kind == "TIMESTAMP" else name
    present = [value is not None for value in values]
    if all(present):
        return expression
    arrays[f"{name}_present"] = np.array(present, dtype=bool)
    return f"CASE WHEN {name}_present THEN {expression} END"


def _number(value: Any) -> Any:
    if isinstance(value, datetime):
        since = value - _EPOCH
        return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds
    return value or 0
