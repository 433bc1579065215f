"""What becomes of a process if memdump's guardian itself is killed, which nothing can watch over."""

from __future__ import annotations

import contextlib
import functools
import itertools
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memdump.process import inject, maps, proc
from memdump.process.architecture import this
from memdump.process.capture import Capture
from memdump.process.guardian import Guardian
from memdump.process.selection import Choice
from memdump.process.target import survey
from tests.lab.inside import dying
from tests.process.cores import Core
from tests.process.targets import CALLS, Running, needs_gcc, running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    needs_gcc,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="arm64 is tried in its guest (test_arm64)"),
]
_PATIENCE = 10


def _living(target: Running) -> set[str]:
    """Give the children of a process that are no zombies."""
    found = set()
    for child in target.children().split():
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{child}/stat").read_text()
            if text[text.rindex(")") + 2] not in "ZX":
                found.add(child)
    return found


def _left_alone(target: Running, children: frozenset[str] = frozenset()) -> None:
    """Wait until nobody traces it and no copy of it runs."""
    deadline = time.monotonic() + _PATIENCE
    while target.status("TracerPid") != "0" or _living(target) - children:
        assert time.monotonic() < deadline, "a copy runs on"
        assert target.process.poll() is None, target.line()
        time.sleep(0.001)


def _runs(target: Running) -> None:
    """It runs, has found nothing wrong, and its signals are its own."""
    _left_alone(target)
    before = int(target.ask().split()[0])
    deadline = time.monotonic() + _PATIENCE
    while True:
        count, children = target.ask().split(" ", 1)
        assert children == "childless"
        if int(count) > before:
            break
        assert time.monotonic() < deadline, "the target stands still"
        time.sleep(0.002)
    assert target.status("SigBlk") == "0" * 16
    assert not _living(target)


def _points(target: Running, *, anywhere: bool) -> Iterator[int]:
    """Have the guardian die at one request after the other, until it comes to its end."""
    number = 0
    for number in dying.points(target.pid, anywhere=anywhere):
        assert number < 1000, "the guardian never comes to its end"
        yield number
    assert number > 20, "it has hardly begun"
    print(f"{number} requests")


@contextlib.contextmanager
def _vectors(*arguments: str) -> Iterator[Running]:
    with running("vectors", *arguments, first=False) as target:
        said = target.line()
        if said != "ready":
            pytest.skip(said)
        yield target


@pytest.mark.parametrize("how", ["spin", "sleep"])
def test_at_each_request(how: str) -> None:
    """Vector registers, the red zone and all others survive, whatever the last thing was that it did."""
    with _vectors(how) as target:
        for _ in _points(target, anywhere=True):
            _runs(target)
        assert not target.children(), "a copy remains as a zombie"


def test_at_each_request_on_the_stack_of_a_coroutine() -> None:
    """What is around it is data, so it finds back by what stands elsewhere, where there is room once."""
    for number in itertools.count(1):
        with running("coroutine") as target:
            if dying.survives(target.pid, number, anywhere=False):
                break
            _runs(target)
    assert number > 20, "it has hardly begun"


@pytest.mark.parametrize("call", CALLS)
def test_a_blocked_call_stays_blocked(call: str) -> None:
    """The call is made again, and the thread blocks what it blocked before."""
    with running("blocked", call) as target:
        time.sleep(0.05)
        children = frozenset(_living(target))
        blocked = target.status("SigBlk")
        for _ in _points(target, anywhere=False):
            _left_alone(target, children)
            deadline = time.monotonic() + _PATIENCE
            while (target.state, target.status("SigBlk")) != ("S", blocked):
                assert time.monotonic() < deadline, (target.state, target.status("SigBlk"))
                assert target.process.poll() is None, target.line()
        time.sleep(0.02)
        assert target.process.poll() is None, target.line()


def _have_it_tell(told: mmap.mmap) -> None:
    """Have the guardian tell when it borrows a thread."""
    call = inject.call

    def borrowing(*arguments: object, **options: int) -> object:
        told[0] += 1
        return call(*arguments, **options)  # type: ignore[arg-type]

    inject.call = borrowing  # type: ignore[assignment]


def _kill_somebody(target: Running, chance: random.Random, longest: float) -> None:
    """Kill the guardian, mostly, or the one that has started it, or both.

    Most do so a random while after a thread was borrowed: first for the copy, then to wait for it.
    """
    with mmap.mmap(-1, 1) as told:
        taker = dying.begin(target.pid, functools.partial(_have_it_tell, told))
        ended = time.monotonic() + 5
        while (guardian := int(target.status("TracerPid"))) == 0 and time.monotonic() < ended:
            time.sleep(0)
        borrowed = chance.choice((0, 1, 1, 1, 1, 3))
        while told[0] < borrowed and _runs_still(guardian) and time.monotonic() < ended:
            time.sleep(0)
        begun = time.monotonic()
        wait = chance.random() * longest
        while time.monotonic() - begun < wait:  # more exactly than sleep does
            pass
        for pid in chance.choice(([guardian], [guardian], [guardian, taker], [taker, guardian], [taker])):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid or taker, signal.SIGKILL)
        os.waitpid(taker, 0)


def _runs_still(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "times", "longest"),
    [
        ("counting", (1,), 70, 0.0006),
        ("counting", (16,), 30, 0.0006),
        ("vectors", ("spin",), 50, 0.0006),
        ("vectors", ("sleep",), 60, 0.0006),
        ("vectors", ("spin", 1024), 40, 0.04),
        ("vectors", ("sleep", 1024), 40, 0.04),
    ],
)
def test_at_any_moment(name: str, arguments: tuple[object, ...], times: int, longest: float) -> None:
    """The kernel is busy with a GiB for tens of milliseconds, so most kills fall into them there."""
    chance = random.Random(f"{name} {arguments}")
    with running(name, *arguments, first=False) as target:
        said = target.patient_line()
        if said != "ready":
            pytest.skip(said)
        for _ in range(times):
            _kill_somebody(target, chance, longest)
            _runs(target)


def test_the_stack_is_the_programs_own_in_the_core_and_afterwards(tmp_path: Path) -> None:
    """What was written below it is there neither in the copy nor in the process."""
    with running("blocked", "read") as target:
        time.sleep(0.05)
        mappings = maps.parse(proc.read(target.pid, "maps"))
        (stack,) = (one for one in mappings if one.path == b"[stack]")
        before = _read(target.pid, stack)
        core = tmp_path / "a.core"
        words = [sys.executable, "-m", "memdump", "process", str(target.pid), str(core), "--mode", "fork"]
        subprocess.run(words, check=True, capture_output=True)
        assert Core(core).read(stack.start, stack.size) == before
        assert _read(target.pid, stack) == before


@pytest.mark.parametrize("finds_back", [True, False])
def test_a_copy_that_is_held_is_killed_with_the_guardian(
    monkeypatch: pytest.MonkeyPatch, finds_back: bool
) -> None:
    """It executes nothing of its program: it ends by SIGKILL, and would have nothing else to end it."""
    if not finds_back:
        monkeypatch.setattr(Capture, "_rescued", lambda *_: None)
    with running("counting", 2) as target:
        with Guardian([survey(target.pid, "fork").wanted(Choice())]) as guardian:
            child = guardian.hold().captured[0].child
            assert child
            os.kill(guardian._pid, signal.SIGKILL)
            _left_alone(target)
            assert _ended_by(child) == signal.SIGKILL
        _runs(target)
        assert not target.children(), "memdump, which lives, has not had it reaped"


def _ended_by(zombie: int) -> int:
    """Give the signal that has ended a process (proc(5), ``exit_code``)."""
    return int(Path(f"/proc/{zombie}/stat").read_text().rpartition(")")[2].split()[49])


def _read(pid: int, mapping: maps.Mapping) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        return os.pread(memory.fileno(), mapping.size, mapping.start)


def test_a_c_library_has_the_way_back() -> None:
    with running("counting", 1) as target, open(f"/proc/{target.pid}/mem", "rb") as memory:  # noqa: PTH123
        found = inject.find(maps.parse(proc.read(target.pid, "maps")), memory.fileno(), this())
        assert found and found.back
        assert inject.are_there(found, memory.fileno(), this())
        assert not inject.are_there(found._replace(back=found.call), memory.fileno(), this())
