"""What gdb says of the same core is what is said here."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest

from memdump.crash.explanation import explain
from tests.crash import cores
from tests.process.targets import begun

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.conftest import Crashed, Explained

WAYS = (
    "null_field",
    "null_call",
    "write_read_only",
    "use_freed",
    "overrun",
    "text_as_pointer",
    "divide",
    "misaligned",
    "failed_assertion",
    "double_free",
    "illegal",
    "killed",
    "threads",
)
FRAME = re.compile(
    r"^#(\d+) +(?:0x([0-9a-f]+) in )?(\S+) \((.*?)\)(?: at (.*):(\d+)|(?: from (\S+)))?$", re.MULTILINE
)
SI_KERNEL = 0x80
REGISTERS = {"rflags": "eflags", "fs.base": "fs_base", "gs.base": "gs_base"}


def frames_of(text: str) -> list[tuple[str, str, int | None]]:
    """Function, file and line of each frame of a backtrace that has them."""
    return [(found[3], found[5], int(found[6])) for found in FRAME.finditer(text) if found[6]]


@pytest.mark.parametrize("way", WAYS)
def test_functions_files_and_lines(way: str, crashed: Crashed, explained: Explained) -> None:
    theirs = [frame for frame in frames_of(cores.ask_gdb(crashed(way))["stack"]) if "crash.c" in frame[1]]
    found = [(one.function, one.file, one.line) for one in explained(way).stack if "crash.c" in one.file]
    assert found == theirs
    assert found[-1][0] == "main"


@pytest.mark.parametrize("debug", [True, False], ids=["debug", "stripped"])
@pytest.mark.parametrize("way", WAYS)
def test_program_counters(way: str, debug: bool, crashed: Crashed, explained: Explained) -> None:
    said = cores.ask_gdb(crashed(way, debug=debug))["stack"]
    # gdb shows no address where a line begins with it, and adds frames of calls that were turned into jumps.
    shown = re.findall(r"^#\d+ +0x([0-9a-f]+) in (?!__pthread_kill_internal)", said, re.MULTILINE)
    assert shown
    assert {int(address, 16) for address in shown} <= {one.pc for one in explained(way, debug=debug).stack}


@pytest.mark.parametrize("way", WAYS)
def test_registers(way: str, crashed: Crashed, explained: Explained) -> None:
    said = cores.ask_gdb(crashed(way))["registers"]
    shown = re.findall(r"^(\w+) +0x([0-9a-f]+)", said, re.MULTILINE)
    theirs = {name: int(value, 16) for name, value in shown}
    mine = {REGISTERS.get(one.name, one.name): one.value for one in explained(way).registers}
    assert len(mine.keys() & theirs.keys()) >= 24
    assert {name: mine[name] for name in theirs if name in mine} == {
        name: theirs[name] for name in mine if name in theirs
    }


@pytest.mark.parametrize("way", WAYS)
def test_signal_code_and_address(way: str, crashed: Crashed, explained: Explained) -> None:
    said = cores.ask_gdb(crashed(way))
    number, code, address = (int(said[name].split()[-1], 0) for name in ("signal", "code", "address"))
    signal = explained(way).signal
    assert signal is not None
    assert (signal.number, signal.code) == (number, code)
    if signal.sender is None and signal.code != SI_KERNEL:
        assert signal.address == address


def test_arguments_and_locals(crashed: Crashed, explained: Explained) -> None:
    said = cores.ask_gdb(crashed("null_field"))
    theirs = dict(re.findall(r"^(\w+) = (\S+)", said["arguments"] + said["locals"], re.MULTILINE))
    top = explained("null_field").stack[0]
    mine = {one.name: one.value for one in (*top.arguments, *top.variables)}
    assert [one.name for one in top.arguments] == ["node", "depth"]
    assert mine == {name: "NULL" if value == "0x0" else value for name, value in theirs.items()}


def test_all_threads(crashed: Crashed, explained: Explained) -> None:
    said = cores.ask_gdb(crashed("threads"))["threads"]
    found = explained("threads")
    theirs = {int(tid) for tid in re.findall(r"LWP (\d+)", said)}
    assert {found.thread, *(tid for group in found.others for tid in group.threads)} == theirs


def test_instructions(crashed: Crashed, explained: Explained) -> None:
    said = cores.ask_gdb(crashed("null_field"))["instructions"]
    theirs = [int(address, 16) for address in re.findall(r"^(?:=>)? *0x([0-9a-f]+) <", said, re.MULTILINE)]
    mine = [one.address for one in explained("null_field").instructions]
    assert len(mine) == 11
    at = theirs.index(mine[0])
    assert mine == theirs[at : at + len(mine)]


@pytest.mark.parametrize("way", ["null_field", "failed_assertion", "threads", "stack_overflow"])
def test_a_core_of_gcore_says_the_same(
    way: str, tmp_path: Path, crashed: Crashed, explained: Explained
) -> None:
    crash = cores.crash_under_gdb(crashed(way).program, way, tmp_path)
    found, expected = explain(crash.core), explained(way)
    assert found.verdict.kind == expected.verdict.kind
    assert found.verdict.notes == expected.verdict.notes
    assert [frame.place for frame in found.stack[:20]] == [frame.place for frame in expected.stack[:20]]
    assert [len(group.threads) for group in found.others] == [len(group.threads) for group in expected.others]
    assert found.defects == []


def test_a_core_of_a_process_that_gdb_started_is_no_crash(tmp_path: Path) -> None:
    core = tmp_path / "core"
    cores.gdb("-ex", "starti", "-ex", f"gcore {core}", "-ex", "kill", "--args", "/bin/true")
    found = explain(core)
    assert found.signal is not None
    assert (found.signal.number, found.signal.code) == (signal.SIGTRAP, 0)
    assert found.verdict.kind == "none"
    assert "a debugger had stopped it at its very start" in found.verdict.text


def test_a_core_of_a_process_that_gdb_attached_to_is_no_crash(tmp_path: Path) -> None:
    core = tmp_path / "core"
    with begun(["sleep", "99"]) as target:
        cores.gdb("-p", str(target.pid), "-ex", f"gcore {core}", "-ex", "detach")
    found = explain(core)
    assert found.verdict.kind == "none", found.verdict
