"""What could not be read, where and why: an answer is never shortened in silence."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import drgn

from memdump.errors import MemdumpError
from memdump.image.base import MissingMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

SMEAR = (
    drgn.FaultError,
    drgn.ObjectAbsentError,
    MissingMemory,
    LookupError,
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
)
"""What reading a torn or hostile structure raises: none of these is a fault of the program."""

LONGEST_WALK = 1 << 20
"""No kernel list that a table follows has more entries than this."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read, and what is missing from the answer because of it."""

    table: Annotated[str, "The table whose answer is incomplete; empty if all of them may be"]
    place: Annotated[str, "Where: the process, the structure or the physical address"]
    reason: Annotated[str, "Why it could not be read"]


class Problems:
    """Collects problems; each is kept once."""

    def __init__(self) -> None:
        self._seen: dict[Problem, None] = {}

    def __iter__(self) -> Iterator[Problem]:
        return iter(tuple(self._seen))

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, table: str, place: str, reason: object) -> None:
        """Note that ``table`` lacks what is at ``place``."""
        self._seen[Problem(table, place, str(reason) or type(reason).__name__)] = None

    @contextlib.contextmanager
    def skipping(self, table: str, place: str) -> Iterator[None]:
        """Leave out what faults inside the block, and note it."""
        try:
            yield
        except SMEAR as error:
            self.add(table, place, error)

    def reading(self, table: str, place: str, read: Callable[..., T], *arguments: Any) -> T | None:
        """What ``read(*arguments)`` gives; None where it faults, which is noted."""
        try:
            return read(*arguments)
        except SMEAR as error:
            self.add(table, place, error)
            return None

    def walk(self, table: str, place: str, items: Iterable[T], limit: int = LONGEST_WALK) -> Iterator[T]:
        """Yield ``items`` until they end, fault or prove endless; the latter two are noted.

        A pointer that comes a second time proves a list endless.
        """
        iterator = iter(items)
        seen: set[int] = set()
        for _ in range(limit):
            try:
                item = next(iterator)
            except StopIteration:
                return
            except SMEAR as error:
                self.add(table, place, error)
                return
            if isinstance(item, drgn.Object) and item.type_.kind is drgn.TypeKind.POINTER:
                address = item.value_()
                if address in seen:
                    self.add(table, place, f"the list runs into itself after {len(seen)} entries")
                    return
                seen.add(address)
            yield item
        self.add(table, place, f"gave up after {limit} entries: the list does not end")


class NoKernel(MemdumpError):
    """The image is readable, but no Linux kernel could be made out in it."""

    exit_status = 3
