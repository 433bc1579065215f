"""How one value is written, for people and for machines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from memdump.report.text import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from memdump.tables.schema import Column

NOTHING = "-"
"""What stands for a value that is not there."""


def iso(time: datetime, timespec: str = "microseconds") -> str:
    """``time`` as ISO 8601 in UTC, always of the same width; a time without a zone is UTC already."""
    if time.tzinfo is not None:
        time = time.astimezone(UTC)
    return time.replace(tzinfo=None).isoformat(timespec=timespec) + "Z"


def formatter(column: Column, timespec: str = "microseconds") -> Callable[[Any], str]:
    """How the cells of a column are written for people: printable characters only."""
    if column.hexadecimal:
        return lambda value: NOTHING if value is None else f"{value:#x}"
    if column.type is str:
        return lambda value: NOTHING if value is None else visible(value)
    return lambda value: _shown(value, timespec)


def _shown(value: Any, timespec: str) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return iso(value, timespec)
    if isinstance(value, bytes):
        return value.hex()
    return visible(str(value))
