"""Processes of an arm64 machine, taken in a guest: what they notice of it, and their cores beside others'."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import LAB_REQUIRED
from tests.lab import arm64, cache
from tests.lab.inside.arm64 import BEFOREHAND, UNGUARDED
from tests.process.cores import Core
from tests.process.targets import CALLS, WAITING_FOR_ALL
from tests.process.test_core import is_whole

if TYPE_CHECKING:
    from tests.lab.arm64 import Made

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("arm64")]
MODES = ("fork", "freeze", "live")
ALL_MODES = (*MODES, "precopy")
NT_PRSTATUS, NT_AUXV, NT_FILE = 1, 6, 0x46494C45
NT_ARM_TLS, NT_ARM_SVE, NT_ARM_PAC_MASK = 0x401, 0x405, 0x406
OF_DEBUGGERS_AND_KEYS = {0x402, 0x403, 0x407, 0x408}
"""Hardware breakpoints and watchpoints, and the keys that return addresses are signed with."""


@pytest.fixture(scope="module")
def arm() -> Made:
    try:
        return arm64.get()
    except cache.NoLab as error:
        if LAB_REQUIRED:
            pytest.fail(f"no arm64 guest: {error}", pytrace=False)
        pytest.skip(f"no arm64 guest: {error}")


def test_the_guest_has_arm64_processors(arm: Made) -> None:
    assert arm.told["uname"][4] == "aarch64"


@pytest.mark.parametrize("call", [*CALLS, *WAITING_FOR_ALL])
def test_a_blocked_call_stays_blocked(arm: Made, call: str) -> None:
    told = arm.told["blocked"]
    assert told["before"][call]["state"] == "S"
    assert [run["mode"] for run in told["runs"].values()] == [*MODES, "fork"]
    for name, run in told["runs"].items():
        assert run["status"] == 0, name
        assert run["after"][call] == told["before"][call], name
        assert run["modes"][call] == run["mode"], name


@pytest.mark.parametrize("call", ["nanosleep", "clock_nanosleep", "ppoll"])
def test_a_wait_ends_when_it_would_have(arm: Made, call: str) -> None:
    """It began a second time if it took the time that it had waited before in addition."""
    assert 6.0 <= arm.told["sleeping"][call] < 8.5


def test_threads_count_on_when_they_are_taken_and_when_memdump_is_killed(arm: Made) -> None:
    told = [words.split(" ", 1) for words in arm.told["counting"]["told"]]
    assert len(told) == 11
    assert {children for _, children in told} == {"childless"}
    counted = [int(number) for number, _ in told]
    assert counted == sorted(set(counted))
    assert arm.told["counting"]["state"]["blocked"] == "0" * 16


@pytest.mark.parametrize("name", [*UNGUARDED, "arm64_vectors", "counting"])
def test_a_thread_finds_back_when_the_guardian_is_killed(arm: Made, name: str) -> None:
    """In front of whatever request: its call goes on, or it counts on in all of its registers."""
    told = arm.told["unguarded"][name]
    assert told["wrong"] is None
    assert told["requests"] > 40


def test_registers_that_a_call_may_change_are_restored(arm: Made) -> None:
    """Those of SVE, of a program that computes while one of its threads is borrowed."""
    assert arm.told["vectors"]["status"] == [0, 0]
    assert int(arm.told["vectors"]["told"]) > 0


def test_signals_that_come_meanwhile_arrive(arm: Made) -> None:
    told = arm.told["signals"]
    assert told["status"] == 0
    assert told["answered"] == told["sent"] > 20
    assert told["said"] == ""


@pytest.mark.parametrize("mode", ["fork", "precopy"])
def test_what_changes_all_the_time_is_never_torn(arm: Made, mode: str) -> None:
    path = arm.folder / f"pattern-{mode}.core"
    start, size = (int(word, 16) for word in arm.told["pattern"]["where"].split())
    assert json.loads(Path(f"{path}.json").read_text())["process"]["mode"] == mode
    assert is_whole(Core(path).read(start, size))


@pytest.mark.parametrize("call", BEFOREHAND)
def test_a_blocked_call_stays_blocked_when_its_process_is_copied_while_it_runs(arm: Made, call: str) -> None:
    told = arm.told["beforehand"][call]
    before, after = told["states"]
    assert (told["status"], told["mode"], before["state"]) == (0, "precopy", "S")
    assert after == before


@pytest.mark.parametrize("mode", ALL_MODES)
def test_the_notes_are_the_kernel_s(arm: Made, mode: str) -> None:
    """Those of the first thread, in kind, order and size."""
    ours, kernels = Core(arm.folder / f"deep-{mode}.core"), Core(arm.folder / "deep-kernel.core")
    told, wanted = first_thread(ours), first_thread(kernels)
    assert told == [one for one in wanted if one[1] not in OF_DEBUGGERS_AND_KEYS]
    assert {NT_ARM_TLS, NT_ARM_SVE, NT_ARM_PAC_MASK} <= {kind for _, kind, _ in told}
    for kind in (NT_AUXV, NT_FILE, NT_ARM_PAC_MASK):
        assert ours.note(kind) == kernels.note(kind)


def first_thread(core: Core) -> list[tuple[str, int, int]]:
    notes = [(owner, kind, len(content)) for owner, kind, content in core.notes]
    threads = [at for at, (_, kind, _) in enumerate(notes) if kind == NT_PRSTATUS]
    assert len(threads) == 9
    return notes[: threads[1]]


@pytest.mark.parametrize("mode", ALL_MODES)
def test_backtraces_and_registers_are_those_of_gdb_s_own_core(arm: Made, mode: str) -> None:
    ours = seen(arm, arm.folder / f"deep-{mode}.core")
    assert ours.count("go_down") > 8
    assert ours == seen(arm, arm.folder / "deep-gcore.core")


def seen(arm: Made, core: Path) -> str:
    """What a debugger for all processors finds in a core."""
    debugger = shutil.which("gdb-multiarch")
    if debugger is None:
        pytest.skip("gdb-multiarch is not installed")
    commands = [f"set sysroot {arm.system}", f"file {arm.program('deep')}", f"core-file {core}"]
    commands += ["thread apply all bt", "p mine", "info registers", "p $q0", "p $q5"]
    words = [debugger, "-batch", "-nx", *(word for command in commands for word in ("-ex", command))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    # The program was elsewhere in the guest; it is named above.
    warnings = done.stderr.replace("warning: Can't open file /lab/targets/deep during file-backed", "")
    assert "warning" not in warnings.lower(), warnings
    return re.sub(r"Core was generated by .*", "", done.stdout)
