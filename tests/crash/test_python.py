"""The stacks of Python in the cores of several versions of CPython."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from memdump.crash import python
from memdump.crash.explanation import explain
from tests.crash import cores

if TYPE_CHECKING:
    from memdump.crash.explanation import Explanation

SCRIPT = cores.PROGRAMS / "crash.py"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
FOUND = {
    path.parent.parent.name: path
    for path in sorted(Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python"))
    if not re.match(r"3\.[0-6]\.", path.parent.parent.name)  # pystack reads 3.7 and later
}
INTERPRETERS = {HERE: Path(sys.executable)} | {
    name: path for name, path in FOUND.items() if not name.startswith(HERE)
}


@pytest.fixture(scope="module", params=INTERPRETERS)
def explanation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    pytest.importorskip("pystack")
    folder = tmp_path_factory.mktemp("python")
    return explain(cores.crash(INTERPRETERS[request.param], str(SCRIPT), folder).core)


def line(words: str) -> int:
    return next(
        number for number, text in enumerate(SCRIPT.read_text().splitlines(), 1) if text.strip() == words
    )


def test_the_crashed_thread(explanation: Explanation) -> None:
    assert explanation.python is not None
    assert explanation.python.error == ""
    threads = {thread.tid: thread for thread in explanation.python.threads}
    assert explanation.thread is not None
    crashed = threads[explanation.thread]
    assert crashed.has_gil
    own = [frame for frame in crashed.frames if frame.file.endswith("crash.py")]
    assert [(re.sub(r".*\.", "", frame.function), frame.line) for frame in own] == [
        ("crash", line("return ctypes.string_at(len(word) - 5)")),
        ("deep", line("return crash(note)")),
        *[("deep", line("return deep(number - 1)"))] * 3,
        ("<module>", line("deep(3)")),
    ]
    assert [frame.arguments[0].value for frame in own[1:5]] == ["0", "1", "2", "3"]
    assert own[1].variables[0].name == "note"
    assert "hello" in own[1].variables[0].value


def test_the_other_threads(explanation: Explanation) -> None:
    assert explanation.python is not None
    others = [thread for thread in explanation.python.threads if thread.tid != explanation.thread]
    assert len(others) == 3
    assert {tid for group in explanation.others for tid in group.threads} == {one.tid for one in others}
    for thread in others:
        assert not thread.has_gil
        assert any(
            frame.function.endswith("waiting") and frame.line == line("event.wait()")
            for frame in thread.frames
        )


def test_the_version(explanation: Explanation) -> None:
    assert explanation.python is not None
    assert re.fullmatch(r"3\.\d+", explanation.python.version)
    assert explanation.verdict.kind == "null_pointer"


def test_a_packed_core(explanation: Explanation, tmp_path: Path) -> None:
    packed = tmp_path / "core.zst"
    packed.write_bytes(zstandard.compress(Path(explanation.path).read_bytes()))
    assert explain(packed).python == explanation.python


def test_a_program_that_is_no_python(tmp_path: Path) -> None:
    program = cores.compiled(tmp_path, "crash", debug=True)
    assert explain(cores.crash(program, "null_field", tmp_path / "crashed").core).python is None


def test_an_interpreter_that_is_not_here(explanation: Explanation, tmp_path: Path) -> None:
    gone = [dataclasses.replace(one, file="", missing="x is not here") for one in explanation.modules]
    found = python.stacks(tmp_path / "core", gone, ())
    assert found is not None
    assert "not here" in found.error


def test_what_pystack_cannot_read_is_a_line(explanation: Explanation, tmp_path: Path) -> None:
    other = Path(shutil.copy(sys.executable, tmp_path / "core"))
    found = python.stacks(other, explanation.modules, ())
    assert found is not None
    assert found.threads == ()
    assert found.error
    assert "\n" not in found.error
