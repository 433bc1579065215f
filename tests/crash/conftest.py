"""The crashes that several tests look at; each is made once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from memdump.crash.explanation import Explanation, explain
from tests.crash import cores

if TYPE_CHECKING:
    from pathlib import Path


class Crashed(Protocol):
    def __call__(self, way: str, *, debug: bool = True, program: str = "crash") -> cores.Crash: ...


class Explained(Protocol):
    def __call__(self, way: str, *, debug: bool = True, program: str = "crash") -> Explanation: ...


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crashes")


@pytest.fixture(scope="session")
def crashed(workshop: Path) -> Crashed:
    """Lets a program crash in a way, once."""
    made: dict[tuple[str, str, bool], cores.Crash] = {}

    def crash(way: str, *, debug: bool = True, program: str = "crash") -> cores.Crash:
        key = (program, way, debug)
        if key not in made:
            binary = cores.compiled(workshop, program, debug=debug)
            made[key] = cores.crash(binary, way, workshop / f"{binary.name}-{way}")
        return made[key]

    return crash


@pytest.fixture(scope="session")
def explained(crashed: Crashed) -> Explained:
    """What is said of it, once."""
    known: dict[Path, Explanation] = {}

    def explanation(way: str, *, debug: bool = True, program: str = "crash") -> Explanation:
        core = crashed(way, debug=debug, program=program).core
        if core not in known:
            known[core] = explain(core)
        return known[core]

    return explanation
