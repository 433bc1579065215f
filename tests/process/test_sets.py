"""Several processes at one instant, of which some end and others begin until all of them stand."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from memdump.cli import _process
from memdump.process.capture import Gone
from memdump.process.guardian import Found, Guardian, Held
from memdump.process.members import Members, by_name
from memdump.process.selection import Choice
from memdump.process.target import survey
from tests.process.cores import Core
from tests.process.targets import begun, built, needs_gcc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from memdump.process.capture import Wanted
    from memdump.process.target import Target
    from tests.process.targets import Running

SLOTS = 256
NAME = f"set-{os.getpid()}"
"""One that no other test's processes have."""


def take(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "memdump", "process", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def told(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    """What the manifests say of the processes."""
    return [json.loads(path.read_text())["process"] for path in folder.glob("*.json")]


@contextlib.contextmanager
def restless(tmp_path: Path, how: str) -> Iterator[tuple[Running, int]]:
    program = tmp_path / NAME
    shutil.copy(built("restless"), program)
    with begun([str(program), how]) as target:
        assert target.line() == "ready"
        try:
            yield target, int(target.line(), 16)
        finally:
            target.process.terminate()
            target.process.wait(60)


@needs_gcc
def test_all_that_live_at_that_instant_are_taken(tmp_path: Path) -> None:
    """Each is in a table while it lives; the table is in the core, as it was when all stood."""
    most = 0
    with restless(tmp_path, "fork") as (target, table):
        for number in range(5):
            out = tmp_path / f"{number}"
            out.mkdir()
            done = take("--all", NAME, out, "--skip", "file")
            assert done.returncode == 0, done.stderr
            taken = told(out)
            pids = {one["pid"] for one in taken}
            assert all(set(one["together"]["pids"]) == pids for one in taken)
            assert all(one["together"]["whole"] for one in taken)
            assert pids.isdisjoint(taken[0]["together"]["ended"])
            (core,) = out.glob(f"*-{target.pid}-*.core")
            _, *living = struct.unpack(f"<{1 + SLOTS}i", Core(core).read(table, 4 + 4 * SLOTS))
            assert {pid for pid in living if pid} <= pids
            most = max(most, len(pids))
            assert target.process.poll() is None
            assert target.status("TracerPid") == "0"
            shutil.rmtree(out)
    assert most > 1


@needs_gcc
def test_those_that_wait_for_one_that_stands(tmp_path: Path) -> None:
    """A process that called vfork stops only when the new one goes on, which may stand already."""
    with restless(tmp_path, "spawn") as (target, _):
        for number in range(4):
            out = tmp_path / f"{number}"
            out.mkdir()
            done = take("--all", NAME, out, "--skip", "file")
            assert done.returncode == 0, done.stderr
            assert target.pid in [one["pid"] for one in told(out)]
            assert target.process.poll() is None
            shutil.rmtree(out)


@needs_gcc
def test_those_that_end_before_they_are_read(tmp_path: Path) -> None:
    """Without copies only their registers are had; the others are taken, and no empty core is left."""
    with restless(tmp_path, "fork") as (target, _):
        for number in range(4):
            out = tmp_path / f"{number}"
            out.mkdir()
            done = take("--all", NAME, out, "--mode", "live", "--skip", "file")
            assert "Traceback" not in done.stderr
            assert target.pid in [one["pid"] for one in told(out)]
            said = re.sub("ended before.*", "", done.stderr)
            assert done.returncode == int("left out" in said or "is gone" in said), said
            assert all(path.stat().st_size for path in out.iterdir())


@pytest.fixture
def pair() -> Iterator[tuple[Running, Running]]:
    with begun(["sleep", "99"]) as one, begun(["sleep", "99"]) as other:
        for each in (one, other):
            while each.status("Name") != "sleep":
                time.sleep(0.01)
        yield one, other


@pytest.mark.parametrize("zombie", [True, False])
def test_one_of_those_named_is_no_more(tmp_path: Path, pair: tuple[Running, Running], zombie: bool) -> None:
    one, other = pair
    other.process.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    if not zombie:
        other.process.wait()
    done = take(other.pid, one.pid, tmp_path)
    assert done.returncode == 1
    assert f"process {other.pid} has ended: it is left out" in done.stderr
    (taken,) = told(tmp_path)
    assert taken["pid"] == one.pid
    assert taken["together"] == {"pids": [one.pid], "ended": [other.pid], "whole": True}
    assert len(done.stdout.splitlines()) == 1


def test_none_of_those_named_is_there(tmp_path: Path, pair: tuple[Running, Running]) -> None:
    for each in pair:
        each.process.kill()
        each.process.wait()
    done = take(*(each.pid for each in pair), tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"memdump: there is no process {pair[0].pid}\n"
    assert list(tmp_path.iterdir()) == []


def members(named: Sequence[int], *names: str) -> Members:
    return Members(named, [by_name(name) for name in names], None, lambda _: Choice())


@contextlib.contextmanager
def held(together: Members, targets: Sequence[Target]) -> Iterator[Held]:
    with Guardian([one.wanted(Choice()) for one in targets], together) as guardian:
        yield guardian.hold()


def test_one_ends_when_all_have_been_looked_at(pair: tuple[Running, Running]) -> None:
    one, other = pair
    together = members([other.pid, one.pid])
    targets = together.survey()
    other.process.kill()
    other.process.wait()
    with held(together, targets) as found:
        assert [captured.pid for captured in found.captured] == [one.pid]
        assert (found.ended, found.joined, found.whole) == ([other.pid], [], True)
        assert _process.tell_of_set(found, [], [other.pid, one.pid]) == 1
        assert _process.tell_of_set(found, [], [one.pid]) == 0  # if it was in a group
        assert one.state in "RS"


def test_all_end_when_they_have_been_looked_at(pair: tuple[Running, Running]) -> None:
    together = members([each.pid for each in pair])
    targets = together.survey()
    for each in pair:
        each.process.kill()
        each.process.wait()
    with pytest.raises(Gone, match=f"^process {pair[0].pid} has ended$"), held(together, targets):
        pass


def test_one_begins_when_all_have_been_looked_at(tmp_path: Path) -> None:
    program = tmp_path / NAME
    shutil.copy("/bin/sleep", program)
    with begun([str(program), "99"]) as one:
        while one.status("Name") != NAME:
            time.sleep(0.01)
        together = members([], NAME)
        targets = together.survey()
        assert [found.pid for found in targets] == [one.pid]
        with begun([str(program), "99"]) as other:
            while other.status("Name") != NAME:
                time.sleep(0.01)
            with held(together, targets) as found:
                assert [captured.pid for captured in found.captured] == [one.pid, other.pid]
                assert [joined.pid for joined in found.joined] == [other.pid]
                assert {captured.mode for captured in found.captured} == {"fork"}
                # Another run, meanwhile, does not take the copies for processes of that name.
                assert len(members([], NAME).survey()) == 2
            assert one.children() == other.children() == ""


def test_one_that_ends_while_it_is_looked_for_may_have_begun_another(
    pair: tuple[Running, Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there when the processes were listed, the one that it began was not, and then it is no more."""
    one, other = pair
    with begun(["sleep", "99"]) as parent:
        listed = [[one.pid], [one.pid], [one.pid, parent.pid], [one.pid, parent.pid, other.pid]]
        monkeypatch.setattr("memdump.process.proc.all_pids", lambda: listed.pop(0) if listed else [])
        together = Members([], [lambda pid: pid != parent.pid], "fork", lambda _: Choice())
        targets = together.survey()
        parent.process.kill()
        os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
        with held(together, targets) as found:
            assert [captured.pid for captured in found.captured] == [one.pid, other.pid]
            assert found.whole


class Endless:
    """Finds one more, however often it is asked."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._left = list(pids)

    def find(self, *, everywhere: bool) -> Found:
        return Found([] if everywhere else [self._left.pop()], settled=True)

    def look(self, pid: int, *, stands: bool) -> tuple[Target, Wanted]:
        assert stands
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("memdump.process.refusal.check", lambda _: None)
            found = survey(pid, "fork")
        return found, found.wanted(Choice())


def test_what_never_ends_is_given_up_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.ExitStack() as stack:
        first, *others = (stack.enter_context(begun(["sleep", "99"])) for _ in range(24))
        wanted = survey(first.pid, "fork").wanted(Choice())
        with Guardian([wanted], Endless([one.pid for one in others])) as guardian:
            found = guardian.hold()
            assert not found.whole
            assert 1 < len(found.captured) < 24
            assert _process.tell_of_set(found, [], []) == 1
        assert "faster than they can be stopped" in capsys.readouterr().err
        for one in (first, *others):
            assert one.status("TracerPid") == "0"
            assert one.children() == ""
