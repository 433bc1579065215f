"""Cores that are damaged, foreign, or whose program is not here."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memdump.crash.core import AT_RANDOM, Core
from memdump.crash.explanation import Explanation, explain
from memdump.errors import MemdumpError, NotADump
from memdump.image.content import open_content
from tests.crash import cores

if TYPE_CHECKING:
    from tests.crash.conftest import Crashed, Explained


def copied(crash: cores.Crash, folder: Path) -> Path:
    return Path(shutil.copy(crash.core, folder / "core"))


@pytest.fixture
def own(tmp_path: Path, crashed: Crashed) -> cores.Crash:
    """The crash of a program that may be changed afterwards."""
    program = Path(shutil.copy(crashed("null_field").program, tmp_path / "own"))
    return cores.crash(program, "null_field", tmp_path / "crash")


def test_a_truncated_core_says_how_much_is_missing(tmp_path: Path, crashed: Crashed) -> None:
    path = copied(crashed("null_field"), tmp_path)
    whole = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(whole - 100_000)
    found = explain(path)
    assert found.defects[0].startswith("truncated: the last 100000 bytes of memory")
    assert found.verdict.kind == "null_pointer"


def test_a_core_that_ends_in_its_notes(tmp_path: Path, crashed: Crashed) -> None:
    path = copied(crashed("null_field"), tmp_path)
    with open_content(path) as content:
        header = Core(path, content).elf
    with path.open("r+b") as file:
        file.truncate(header.program_offset + header.program_entry * header.program_count + 500)
    with pytest.raises(NotADump, match=r"core: truncated: the last \d+ bytes of memory are not in the file"):
        explain(path)


def test_a_core_with_nothing_but_its_notes(tmp_path: Path, crashed: Crashed, explained: Explained) -> None:
    path = copied(crashed("null_field"), tmp_path)
    with open_content(path) as content:
        first = min(region.offset for region in Core(path, content).regions if region.saved)
    with path.open("r+b") as file:
        file.truncate(first)
    found = explain(path)
    assert found.signal == explained("null_field").signal
    assert any("truncated" in defect for defect in found.defects)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"\x7fELF", "truncated|unknown"),
        (b"just some text, which is no core", "is no core"),
        (b"\0" * 4096, "is no core"),
    ],
)
def test_what_is_no_core(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(data)
    with pytest.raises(NotADump, match=says):
        explain(path)


def test_a_program_is_no_core(crashed: Crashed) -> None:
    with pytest.raises(NotADump, match="program or library"):
        explain(crashed("null_field").program)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(NotADump, match="no such file"):
        explain(tmp_path / "none")


def test_a_32_bit_core_of_arm(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 4, 40, *[0] * 11))
    with pytest.raises(NotADump, match="32-bit"):
        explain(path)


def test_a_program_that_is_gone(own: cores.Crash) -> None:
    own.program.unlink()
    found = explain(own.core)
    assert found.verdict.kind == "null_pointer"
    assert any(f"no file of {own.program}" in defect and "not here" in defect for defect in found.defects)
    assert found.stack[0].module == str(own.program)
    assert found.stack[0].module_offset is not None


def test_a_program_that_has_changed(own: cores.Crash, crashed: Crashed) -> None:
    before = explain(own.core).modules[0].build_id
    own.program.unlink()
    shutil.copy(crashed("null_field", debug=False).program, own.program)
    found = explain(own.core)
    assert any("has changed since" in defect and before in defect for defect in found.defects)
    assert found.stack[0].function == ""


def test_a_program_in_another_place(own: cores.Crash, tmp_path: Path) -> None:
    root = tmp_path / "root"
    moved = root / str(own.program).lstrip("/")
    moved.parent.mkdir(parents=True)
    own.program.rename(moved)
    assert explain(own.core).stack[0].function == ""
    found = explain(own.core, root=root)
    assert found.stack[0].function == "read_null_field"
    assert found.modules[0].file == str(moved)


def test_a_program_that_became_a_pipe_is_not_opened(own: cores.Crash) -> None:
    own.program.unlink()
    os.mkfifo(own.program)
    found = explain(own.core)
    assert any("no ordinary file" in defect for defect in found.defects)


def test_an_address_as_addr2line_takes_it(own: cores.Crash, crashed: Crashed, explained: Explained) -> None:
    """What is given for a program that is not here can be looked up where it is."""
    if not shutil.which("addr2line"):
        pytest.skip("addr2line is not installed: apt install binutils")
    own.program.unlink()
    offset = explain(own.core).stack[0].module_offset
    assert offset is not None
    command = ["addr2line", "-f", "-e", str(crashed("null_field").program), hex(offset)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    top = explained("null_field").stack[0]
    assert said[0] == top.function
    assert said[1].endswith(f"crash.c:{top.line}")
    assert offset == top.module_offset


@pytest.mark.parametrize(("program", "way"), [("crash", "plain_abort"), ("throw", "derived")])
def test_memory_at_an_offset_that_no_file_has(
    program: str, way: str, tmp_path: Path, crashed: Crashed
) -> None:
    """To read there is refused with EINVAL (lseek(2)), not answered with an end of file."""
    path = copied(crashed(way, debug=False, program=program), tmp_path)
    with open_content(path) as content:
        core = Core(path, content)
        stack = core.region(core.auxv[AT_RANDOM])
        assert stack is not None
        at = content[: core.elf.program_offset + (1 << 16)].index(
            struct.pack("<2Q", stack.offset, stack.start)
        )
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack("<Q", 1 << 63))
    found = explain(path)
    assert found.verdict.kind == "abort"
    assert any("truncated" in defect for defect in found.defects)


EXTREME = st.sampled_from([0, 1, 4095, 1 << 32, 1 << 47, 1 << 63, (1 << 63) - 1, (1 << 64) - 1])
FUZZED = [
    ("crash", "null_field"),
    ("crash", "handler_aborts"),
    ("crash", "double_free"),
    ("throw", "derived"),
]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize(("program", "way"), FUZZED)
def test_damage_anywhere_is_an_answer_or_an_error(
    program: str, way: str, data: st.DataObject, tmp_path: Path, crashed: Crashed
) -> None:
    """The headers and notes are parsed by what is here; the program is left out, so that it is quick."""
    path = tmp_path / "core"
    damaged = bytearray(crashed(way, debug=False, program=program).core.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):  # words of the program headers
        at = 64 + 8 * data.draw(st.integers(0, 7 * 30))
        damaged[at : at + 8] = struct.pack("<Q", data.draw(EXTREME))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, 6000) | st.integers(0, len(damaged) - 9))
        with_what = data.draw(st.binary(min_size=1, max_size=8))
        damaged[at : at + len(with_what)] = with_what
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))])
    try:
        assert isinstance(explain(path), Explanation)
    except MemdumpError as error:
        assert "\n" not in str(error)
