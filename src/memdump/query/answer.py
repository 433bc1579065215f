"""The answer to a query, with the types that SQL gave it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from memdump.errors import UsageError
from memdump.query.sql import explained, identifier, text
from memdump.report.text import well_formed
from memdump.tables.schema import Column

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import duckdb

_BATCH = 1024
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_PYTHON_TYPES: dict[str, type] = {
    **dict.fromkeys((prefix + name for prefix in ("", "U") for name in _INTEGERS), int),
    "VARCHAR": str,
    "BOOLEAN": bool,
    "FLOAT": float,
    "DOUBLE": float,
    "TIMESTAMP": datetime,
}
_ZONED = "TIMESTAMP WITH TIME ZONE"
_FETCHED_AS = {_ZONED: "TIMESTAMP"}
"""Times with a zone are fetched as plain ones, which are UTC: DuckDB wants another package for the former."""
_STORED_AS = {"TIMESTAMP": _ZONED, "HUGEINT": "DECIMAL(38, 0)", "UHUGEINT": "VARCHAR"}
"""Parquet marks times as UTC; 128-bit integers, which it lacks, DuckDB would write as inexact numbers."""


class Answer:
    """The answer to a query: ``columns``, and the rows as tuples, which can be iterated over once."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, sql: str, details: Collection[str] = ()
    ) -> None:
        """Run ``sql``; the columns named in ``details`` are left out first where there is little room."""
        self._connection = connection
        self._sql = sql.strip().rstrip(";")
        described = self._execute(sql)
        if any(kind in _FETCHED_AS for _, kind in described):
            described = self._execute(self._cast(described, _FETCHED_AS))
        self._described = described
        self.columns = tuple(
            Column(
                name,
                _PYTHON_TYPES.get(kind, object),
                kind,
                hexadecimal=kind == "UBIGINT",
                detail=name in details,
            )
            for name, kind in described
        )

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        times = [index for index, column in enumerate(self.columns) if column.type is datetime]
        with explained():
            while batch := self._connection.fetchmany(_BATCH):
                yield from (_in_utc(row, times) for row in batch) if times else batch

    def write_parquet(self, path: str) -> None:
        """Write the answer as a Parquet file; ``path`` must be the one that `ask` was given as ``output``."""
        self._execute(
            f"COPY ({self._cast(self._described, _STORED_AS)}) TO {text(path)}"
            " (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)"
        )

    def _execute(self, sql: str) -> list[tuple[str, str]]:
        """Run ``sql`` and return the names and types of its columns."""
        with explained():
            done = self._connection.execute(sql)
        description = done.description if done else None
        if not description:
            raise UsageError("the SQL asks for nothing: it must be a SELECT")
        names = _distinct([column[0] for column in description])
        return list(zip(names, (_simple(str(column[1])) for column in description), strict=True))

    def _cast(self, described: Sequence[tuple[str, str]], casts: Mapping[str, str]) -> str:
        selected = (
            f"#{position}{f'::{casts[kind]}' if kind in casts else ''} AS {identifier(name)}"
            for position, (name, kind) in enumerate(described, 1)
        )
        return f"SELECT {', '.join(selected)} FROM (\n{self._sql}\n)"  # noqa: S608 - it is the user's own


def _simple(kind: str) -> str:
    """Name a type; a plain time of any precision is a TIMESTAMP."""
    return "TIMESTAMP" if kind in ("TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS") else kind


def _distinct(names: Sequence[str]) -> list[str]:
    """Number the names that occur again: ``pid``, ``pid_1``."""
    seen: set[str] = set()
    result = []
    for name in map(well_formed, names):
        number, unique = 0, name
        while unique.lower() in seen:
            number += 1
            unique = f"{name}_{number}"
        seen.add(unique.lower())
        result.append(unique)
    return result


def _in_utc(row: tuple[Any, ...], times: Sequence[int]) -> tuple[Any, ...]:
    values = list(row)
    for index in times:
        if isinstance(values[index], datetime):
            values[index] = values[index].replace(tzinfo=UTC)
    return tuple(values)
