"""What a table is: a frozen dataclass whose fields are the columns, and a generator of its rows.

A column is an annotated field: ``pid: Annotated[int, "Thread-group id"]``.  Allowed types are ``int``,
``str``, ``bool``, ``float``, ``datetime`` (always UTC) and `Address`, each of them also ``| None`` for a
value that is not there or could not be read.  A string that is bytes in memory is decoded as UTF-8 with
``surrogateescape``: what shows it makes it safe.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator
from datetime import datetime
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from memdump.kernel.kernel import Kernel


@dataclasses.dataclass(frozen=True, slots=True)
class Hexadecimal:
    """Marks an integer column that is shown in hexadecimal."""


Address = Annotated[int, Hexadecimal()]
"""A kernel or physical address: exact in every machine format, hexadecimal on a terminal."""


@dataclasses.dataclass(frozen=True, slots=True)
class Detail:
    """Marks a column that a narrow terminal leaves out first: ``Annotated[int, "Session", DETAIL]``."""


DETAIL = Detail()

Rows = Callable[["Kernel"], Iterator[Any]]
"""The generator of a table."""


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column: ``doc`` says what it means, with units.

    ``type`` is one of int, str, bool, float and datetime; in the answer to a query also ``object``, for what
    SQL has beyond them.
    """

    name: str
    type: type
    doc: str
    nullable: bool = True
    hexadecimal: bool = False
    detail: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table: its name, its columns, and ``rows``, which reads them from a kernel."""

    name: str
    row: type
    doc: str
    columns: tuple[Column, ...]
    rows: Rows


def table(row: type) -> Callable[[Rows], Table]:
    """Make a generator of ``row`` objects a table with the generator's name and the row's docstring."""

    def build(rows: Rows) -> Table:
        name = rows.__name__
        return Table(name, row, " ".join((row.__doc__ or "").split()), columns_of(row), _guarded(name, rows))

    return build


def _guarded(name: str, rows: Rows) -> Rows:
    """``rows``, ended and noted as a problem where damaged memory gets past the generator's own guards."""

    @functools.wraps(rows)
    def guarded(kernel: Kernel) -> Iterator[Any]:
        from memdump.kernel.problems import SMEAR

        try:
            yield from rows(kernel)
        except SMEAR as error:
            kernel.problems.add(name, "everything behind this row", f"{type(error).__name__}: {error}")

    return guarded


def columns_of(row: type) -> tuple[Column, ...]:
    """The columns of a row type, in order.

    Raises `TypeError` for a column without a doc or of a type that is not allowed: a fault of the author.
    """
    hints = typing.get_type_hints(row, include_extras=True)
    return tuple(_column(row, field.name, hints[field.name]) for field in dataclasses.fields(row))


def _column(row: type, name: str, hint: Any) -> Column:
    plain, notes = _unwrap(hint)
    alternatives = [_unwrap(option) for option in typing.get_args(plain)] or [(plain, ())]
    notes += tuple(note for _, extra in alternatives for note in extra)
    kinds = [kind for kind, _ in alternatives if kind is not NoneType]
    docs = [note for note in notes if isinstance(note, str)]
    if len(kinds) != 1 or kinds[0] not in (int, str, bool, float, datetime) or not docs:
        raise TypeError(f"{row.__name__}.{name}: not a documented column of a type that tables have")
    return Column(
        name,
        kinds[0],
        docs[-1],
        nullable=any(kind is NoneType for kind, _ in alternatives),
        hexadecimal=any(isinstance(note, Hexadecimal) for note in notes),
        detail=any(isinstance(note, Detail) for note in notes),
    )


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(hint) is Annotated:
        inner, *notes = typing.get_args(hint)
        return inner, tuple(notes)
    return hint, ()
