"""The program of one file that hosts run where nothing is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from typing import TYPE_CHECKING

import pytest

from memdump import __version__
from memdump.machine import bundle
from tests.machine import fake_kcore, pythons

if TYPE_CHECKING:
    from pathlib import Path

ACQUIRE = """\
import sys
sys.path.insert(0, {program!r})
from memdump.machine import sources
from memdump.machine.kcore import KcoreSource
sources.open_source = lambda *_: sources.Chosen(KcoreSource({kcore!r}, {iomem!r}), [])
from memdump.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""Has the program read a kcore in a file, never that of the machine that the test runs on."""


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "memdump-agent.pyz"
    bundle.main(str(path))
    return path


def run(python: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a Python with nothing of this environment around it."""
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    return subprocess.run(
        [python, *map(str, arguments)], capture_output=True, check=False, cwd=cwd, env=environment
    )


def inside(program: Path, code: str) -> str:
    """Have the modules in the program be those that are imported."""
    return f"import sys; sys.path.insert(0, {str(program)!r}); {code}"


def test_it_is_small_and_holds_what_it_should(program: Path) -> None:
    assert program.stat().st_size < 300_000
    names = zipfile.ZipFile(program).namelist()
    assert {"memdump/cli/acquire.py", "memdump/machine/kcore.py", "memdump/report/text.py"} <= set(names)
    assert not [
        name for name in names if name.startswith(("memdump/image", "memdump/kernel", "memdump/tables"))
    ]


def test_it_is_the_same_file_when_made_again(program: Path) -> None:
    time.sleep(2)  # the times in a zip file have two seconds
    again = [
        sys.executable,
        "-c",
        "import sys; from memdump.machine import bundle; sys.stdout.buffer.write(bundle.program())",
    ]
    done = subprocess.run(again, capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert done.stdout == program.read_bytes()


def test_it_makes_itself_again(program: Path, tmp_path: Path) -> None:
    code = "from memdump.machine import bundle; bundle.main('again')"
    assert run(sys.executable, "-ISBc", inside(program, code), cwd=tmp_path).stderr == b""
    assert (tmp_path / "again").read_bytes() == program.read_bytes()


def test_no_file_is_written_over(program: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "memdump.machine.bundle", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"memdump: {program}: exists already")
    assert done.stderr.count("\n") == 1


def test_it_can_be_run_as_it_is(program: Path) -> None:
    assert os.access(program, os.X_OK)
    assert subprocess.run([program, "--version"], capture_output=True, check=True).stdout.startswith(
        b"memdump"
    )


def test_it_is_tried_with_more_than_one_python() -> None:
    print(pythons.told())
    if len(pythons.TRIED) < 2:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(pythons.told())


@pytest.mark.parametrize("python", pythons.NEW_ENOUGH, ids=pythons.TRIED)
def test_every_module_of_it_needs_nothing_but_the_standard_library(
    program: Path, tmp_path: Path, python: str
) -> None:
    names = zipfile.ZipFile(program).namelist()
    modules = [name[: -len(".py")].replace("/", ".").replace(".__init__", "") for name in names]
    modules.remove("__main__")
    code = f"import importlib; [importlib.import_module(name) for name in {modules!r}]"
    done = run(python, "-ISBc", inside(program, code), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("python", pythons.NEW_ENOUGH, ids=pythons.TRIED)
def test_it_acquires(program: Path, tmp_path: Path, python: str) -> None:
    machine = fake_kcore.make(tmp_path)
    code = ACQUIRE.format(program=str(program), kcore=str(machine.kcore), iomem=str(machine.iomem))
    done = run(python, "-ISBc", code, "acquire", tmp_path / "m.lime", "--priority", "normal", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    image = (tmp_path / "m.lime").read_bytes()
    assert all(data[:4096] in image and data[-4096:] in image for data in machine.memory.values())
    assert b"Traceback" not in done.stderr
    streamed = run(python, "-ISBc", code, "acquire", "-", "--priority", "normal", cwd=tmp_path)
    assert streamed.stdout == image


@pytest.mark.parametrize("python", pythons.NEW_ENOUGH, ids=pythons.TRIED)
def test_it_says_what_it_is_and_what_it_cannot(program: Path, tmp_path: Path, python: str) -> None:
    assert run(python, program, "--version", cwd=tmp_path).stdout.decode() == f"memdump {__version__}\n"
    told = run(python, program, "--help", cwd=tmp_path)
    assert "  acquire  " in told.stdout.decode()
    assert "  triage  " not in told.stdout.decode()
    assert run(python, program, "acquire", "--help", cwd=tmp_path).returncode == 0
    done = run(python, program, "triage", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(b"memdump: 'triage' is not in this copy of memdump, which only acquires")
    assert done.stderr.count(b"\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [("m.lime.zst",), ("m.lime", "--recipient", "age1x"), ("s3://bucket/key",)]
)
def test_what_needs_a_library_is_refused_in_one_line(
    program: Path, tmp_path: Path, options: tuple[str]
) -> None:
    machine = fake_kcore.make(tmp_path)
    code = ACQUIRE.format(program=str(program), kcore=str(machine.kcore), iomem=str(machine.iomem))
    done = run(sys.executable, "-ISBc", code, "acquire", *options, "--priority", "normal", cwd=tmp_path)
    assert done.returncode in (1, 2), done.stderr
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("memdump: ")
    assert "a fault of memdump itself" not in last
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("m.lime")] == []


@pytest.mark.parametrize("python", pythons.TOO_OLD)
def test_an_older_python_is_told_in_one_line(program: Path, tmp_path: Path, python: str) -> None:
    done = run(python, program, "acquire", cwd=tmp_path)
    assert done.returncode == 1
    assert b"memdump needs 3.8 or newer" in done.stderr
    assert done.stderr.count(b"\n") == 1
