"""A third party's tables over a dump that needs no memory: what the tests of the commands ask about."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

from memdump.dump import Dump
from memdump.errors import NotADump
from memdump.kernel.problems import Problems
from memdump.tables.schema import DETAIL, Address, table

if TYPE_CHECKING:
    from collections.abc import Iterator

DECEPTIVE = "\x1b[31mred\x1b[0m\r\n\u202egpj.exe\x9b2J\udcff"
"""What somebody may call a process: colours, a new line, a bidirectional override, a C1 control, no UTF-8."""
BUILT: list[str] = []
"""The tables that were read, in order."""


@dataclass(frozen=True, slots=True)
class Ship:
    """A ship in the harbour."""

    number: Annotated[int, "Its number"]
    name: Annotated[str | None, "What it is called"]
    arrived: Annotated[datetime | None, "When it came"]
    afloat: Annotated[bool, "Whether it swims"]
    draught: Annotated[float | None, "Metres"]
    berth: Annotated[Address | None, "Where it lies"]
    cargo: Annotated[int | None, "Bytes", DETAIL]


SHIPS = [
    Ship(
        1, DECEPTIVE, datetime(2024, 2, 29, 23, 59, 59, 5, tzinfo=UTC), True, 0.5, 0xFFFF888003A54000, 2**64
    ),
    Ship(2, "日本丸", None, False, None, None, None),
    Ship(3, "", datetime(1969, 12, 31, tzinfo=UTC), True, -1.25, 0, 2**63 - 1),
]


@table(Ship)
def ships(kernel: Any) -> Iterator[Ship]:
    BUILT.append("ships")
    yield from SHIPS


@dataclass(frozen=True, slots=True)
class Sailor:
    """Somebody on a ship."""

    number: Annotated[int, "The number of the ship"]
    sailor: Annotated[str, "A name"]


@table(Sailor)
def crew(kernel: Any) -> Iterator[Sailor]:
    BUILT.append("crew")
    for number in range(5000):
        yield Sailor(number % 3 + 1, f"sailor {number}")


@dataclass(frozen=True, slots=True)
class Wreck:
    """A ship that sank."""

    name: Annotated[str, "What it was called"]


@table(Wreck)
def wrecks(kernel: Any) -> Iterator[Wreck]:
    BUILT.append("wrecks")
    yield Wreck("first")
    kernel.problems.add("wrecks", "the sea bed", "too \x1b[2Jdeep")
    raise ValueError("torn")


@table(Wreck)
def faulty(kernel: Any) -> Iterator[Wreck]:
    raise RuntimeError("a bug")
    yield


@table(Wreck)
def endless(kernel: Any) -> Iterator[Wreck]:
    while True:
        yield Wreck("again")


@table(Wreck)
def interrupted(kernel: Any) -> Iterator[Wreck]:
    raise KeyboardInterrupt
    yield


def open_harbour(path: str | os.PathLike[str], *_: object, **__: object) -> Dump:
    """A dump for any path but one of a file that is none."""
    if not os.fspath(path).endswith(".dump"):
        raise NotADump(f"{path}: is no dump")
    image: Any = SimpleNamespace(path=Path(path), identity=None, defects=[], close=lambda: None)
    dump = Dump(image)
    dump.__dict__["kernel"] = SimpleNamespace(image=image, problems=Problems())
    return dump
