from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from memdump import tables
from memdump.cli import main
from memdump.dump import Dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTINGS = ("COLUMNS", "NO_COLOR", "MEMDUMP_DEBUG", "PYTHONUNBUFFERED", "PYTHONIOENCODING")
"""Environment variables that change how a command writes."""
TABLES = ("ships", "crew", "wrecks", "faulty", "endless", "interrupted")


@pytest.fixture(autouse=True)
def any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output is no terminal's, also where tests run side by side: pytest-xdist gives its workers a width."""
    monkeypatch.delenv("COLUMNS", raising=False)


class Result(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder for ``sys.path`` in which the package ``harbour`` is installed, entry points and all."""
    folder = tmp_path / "site"
    information = folder / "harbour-1.0.dist-info"
    information.mkdir(parents=True)
    (folder / "harbour.py").write_bytes(Path(__file__).with_name("harbour.py").read_bytes())
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: harbour\nVersion: 1.0\n")
    entries = [f"{name} = harbour:{name}" for name in TABLES]
    entries += ["missing = harbour:nowhere", "untabled = harbour:SHIPS", "absent = harbour_absent:x"]
    (information / "entry_points.txt").write_text("\n".join(["[memdump.tables]", *entries, ""]))
    return folder


@pytest.fixture
def harbour(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """The module ``harbour``, with every dump opened by it."""
    monkeypatch.syspath_prepend(installed)
    monkeypatch.setattr(tables, "BUILT_IN", {"problems": "problems"})
    for name in ("COLUMNS", "MEMDUMP_DEBUG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    import harbour  # type: ignore[import-not-found, unused-ignore]

    monkeypatch.setattr(Dump, "open", staticmethod(harbour.open_harbour))
    yield harbour
    del sys.modules["harbour"]


@pytest.fixture
def run(harbour: object, capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command line in this process."""

    def run(*arguments: str) -> Result:
        capfd.readouterr()
        status = main(arguments)
        sys.stdout.flush()
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return run


STARTER = """
import sys, harbour
from memdump import tables
from memdump.dump import Dump
tables.BUILT_IN = {"problems": "problems"}
Dump.open = staticmethod(harbour.open_harbour)
from memdump.cli import main
sys.exit(main())
"""


@pytest.fixture
def start(installed: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Start a command line in a process of its own."""

    def start(
        *arguments: str, environment: dict[str, str] | None = None, **files: int
    ) -> subprocess.Popen[bytes]:
        path = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
        clean = {k: v for k, v in os.environ.items() if k not in SETTINGS}
        clean |= {"PYTHONPATH": os.pathsep.join(path), "TERM": "xterm", **(environment or {})}
        files = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **files}
        return subprocess.Popen([sys.executable, "-c", STARTER, *arguments], env=clean, **files)  # type: ignore[call-overload, no-any-return]

    return start
