"""What a process notices of being taken: nothing but that a moment was a little longer."""

from __future__ import annotations

import contextlib
import json
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

from memdump.errors import MemdumpError
from memdump.process import inject, ptrace
from memdump.process.architecture import this
from memdump.process.capture import Capture, Wanted
from memdump.process.guardian import Found, Guardian
from memdump.process.selection import Choice
from memdump.process.take import core, write
from memdump.process.target import Target, survey
from tests.process.targets import CALLS, MODES, WAITING_FOR_ALL, Running, begun, needs_gcc, running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_gcc
COPIED_OR_READ = [mode for mode in MODES if mode != "live"]


def memdump(*words: object) -> list[str]:
    return [sys.executable, "-m", "memdump", "process", *map(str, words)]


def take(pid: int, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(memdump(pid, out, *options), capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", CALLS)
def test_a_blocked_call_stays_blocked(tmp_path: Path, call: str, mode: str) -> None:
    with running("blocked", call) as target:
        time.sleep(0.1)
        before = (target.children(), target.status("SigBlk"), target.status("TracerPid"))
        for number in range(2):
            done = take(target.pid, tmp_path / f"{number}.core", "--mode", mode)
            assert done.returncode == 0, done.stderr
        time.sleep(0.05)
        assert target.process.poll() is None, target.line()
        assert target.state == "S"
        assert (target.children(), target.status("SigBlk"), target.status("TracerPid")) == before


@pytest.mark.parametrize("call", WAITING_FOR_ALL)
def test_nobody_can_wait_for_the_copy(tmp_path: Path, call: str) -> None:
    """Even those do not find it who wait for clones of any kind: it is reaped while they stand."""
    with running("blocked", call) as target:
        time.sleep(0.1)
        children = target.children()
        for number in range(8):
            out = tmp_path / f"{number}.core"
            done = take(target.pid, out, "--mode", "fork", "--skip", "file")
            assert done.returncode == 0, done.stderr
            process = json.loads(Path(f"{out}.json").read_text())["process"]
            assert (process["mode"], process["left_behind"]) == ("fork", None)
            assert target.process.poll() is None, target.line()
            assert target.children() == children


WAITS = {
    "nanosleep": "time.sleep(6)",
    "poll": "poll = select.poll(); poll.register(ends[0]); poll.poll(6000)",
    "select": "select.select([ends[0]], [], [], 6)",
    "futex": "lock.acquire(timeout=6)",
    "ppoll": "libc.ppoll(None, 0, struct.pack('qq', 6, 0), None)",
}
BEGUN_ANEW = {
    "epoll_wait": "select.epoll().poll(3)",
    "sigtimedwait": "signal.sigtimedwait([signal.SIGUSR1], 3)",
}


def waited(tmp_path: Path, wait: str, seconds: float) -> float:
    """The seconds that a wait takes, in a program that is taken after these seconds."""
    program = (
        "import ctypes, os, select, signal, struct, threading, time\n"
        "libc, ends, lock = ctypes.CDLL(None), os.pipe(), threading.Lock(); lock.acquire()\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
        f"os.write(1, b'ready\\n'); start = time.monotonic()\n{wait}\nprint(time.monotonic() - start)\n"
    )
    with begun([sys.executable, "-c", program]) as target:
        assert target.line() == "ready"
        time.sleep(seconds)
        assert take(target.pid, tmp_path / "a.core", "--mode", "fork").returncode == 0
        return float(target.line())


@pytest.mark.parametrize("call", WAITS)
def test_a_wait_ends_when_it_would_have(tmp_path: Path, call: str) -> None:
    """Were it begun anew, it would take four seconds longer at least; a busy machine may take two."""
    assert 6 <= waited(tmp_path, WAITS[call], 4) < 9


@pytest.mark.parametrize("call", BEGUN_ANEW)
def test_a_wait_that_begins_anew_is_no_shorter(tmp_path: Path, call: str) -> None:
    assert waited(tmp_path, BEGUN_ANEW[call], 1) >= 3


def test_a_wait_begins_anew_once_where_another_thread_can_be_borrowed(tmp_path: Path) -> None:
    """The copy is read for five seconds, and then taken away by the thread that waits for no time."""
    others = "threading.Thread(target=os.read, args=(ends[0], 1), daemon=True).start(); "
    program = (
        "import os, select, threading, time\n"
        "ends, epoll = os.pipe(), select.epoll()\n"
        f"{others}os.write(1, b'ready\\n'); start = time.monotonic()\n"
        "epoll.poll(6); print(time.monotonic() - start)\n"
    )
    with begun([sys.executable, "-c", program]) as target:
        assert target.line() == "ready"
        found = survey(target.pid, "fork")
        with Guardian([found.wanted(Choice())]) as guardian:
            guardian.hold()
            time.sleep(5)
            guardian.release(target.pid)
        assert 6 <= float(target.line()) < 10


def test_a_handler_that_waits_interrupts_as_it_would_have(tmp_path: Path) -> None:
    """A signal with a handler still makes EINTR of epoll_wait."""
    program = (
        "import select, signal, os\n"
        "signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b'handled\\n'))\n"
        "os.write(1, b'ready\\n')\n"
        "select.epoll().poll(100, 1)\n"
    )
    with begun([sys.executable, "-c", program]) as target:
        assert target.line() == "ready"
        assert take(target.pid, tmp_path / "a.core").returncode == 0
        os.kill(target.pid, signal.SIGUSR1)
        assert target.line() == "handled"
        assert target.process.poll() is None


@pytest.mark.parametrize("mode", MODES)
def test_a_stopped_process_stays_stopped(tmp_path: Path, mode: str) -> None:
    with running("counting", 2) as target:
        os.kill(target.pid, signal.SIGSTOP)
        os.waitpid(target.pid, os.WUNTRACED)
        done = take(target.pid, tmp_path / "a.core", "--mode", mode)
        assert done.returncode == 0, done.stderr
        assert target.state == "T"
        os.kill(target.pid, signal.SIGCONT)
        assert "childless" in target.ask()


class _Slow:
    """Looks for others, and does not come back soon."""

    def find(self, *, everywhere: bool) -> Found:
        """Find none."""
        time.sleep(2)
        return Found([], True)

    def look(self, pid: int, *, stands: bool) -> tuple[Target, Wanted]:
        """Not asked for."""
        raise NotImplementedError


def test_whoever_waits_for_the_guardian_can_be_interrupted() -> None:
    with running("counting", 2) as target:
        start = time.monotonic()
        wanted = survey(target.pid, "fork").wanted(Choice())
        with Guardian([wanted], _Slow(), lambda: "SIGINT") as guardian:
            with pytest.raises(MemdumpError, match="stopped by SIGINT before anything was taken"):
                guardian.hold()
            assert time.monotonic() - start < 1.5
        survives(target)


@pytest.mark.parametrize("mode", COPIED_OR_READ)
def test_stops_that_come_meanwhile_are_neither_lost_nor_made_up(tmp_path: Path, mode: str) -> None:
    """SIGSTOP and SIGCONT at any moment of the stops, and while the copy is read: the last one holds."""
    chance = random.Random(mode)
    with running("counting", 4) as target:
        for number in range(12):
            out = tmp_path / f"{number}.core"
            words = memdump(target.pid, out, "--mode", mode)
            dump = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            while dump.poll() is None:
                os.kill(target.pid, signal.SIGSTOP)
                time.sleep(chance.random() * 0.002)
                os.kill(target.pid, signal.SIGCONT)
                time.sleep(chance.random() * 0.002)
            assert dump.stderr
            with dump.stderr:
                assert dump.returncode == 0, dump.stderr.read()
            assert json.loads(Path(f"{out}.json").read_text())["process"]["left_behind"] is None
            out.unlink()
            survives(target)
        for _ in range(6):
            taker = _taker(target.pid, mode)
            _until_it_begins(target, chance)
            os.kill(target.pid, signal.SIGSTOP)
            os.waitpid(taker, 0)
            deadline = time.monotonic() + 10
            while target.state != "T" or target.status("TracerPid") != "0":
                assert time.monotonic() < deadline, (target.state, "it does not stay stopped")
                time.sleep(0.01)
            os.kill(target.pid, signal.SIGCONT)
            survives(target)


def test_signals_that_come_meanwhile_arrive(tmp_path: Path) -> None:
    """Hundreds of signals, one for one: each is answered before the next is sent."""
    with running("signals") as target:
        dump = subprocess.Popen(
            memdump(target.pid, tmp_path / "a.core"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        sent = 0
        while dump.poll() is None or sent < 100:
            os.kill(target.pid, signal.SIGUSR1)
            assert target.byte() == "!"
            sent += 1
        assert dump.wait() == 0


def test_it_stands_no_longer_where_the_ends_of_children_are_ignored() -> None:
    """What is inherited so would keep the signals away that tell of each stop."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with running("tick", 1) as target:
            pauses: list[int] = []
            for _ in range(8):
                with Guardian([survey(target.pid, "fork").wanted(Choice())]) as guardian:
                    guardian.hold()
                    pauses += guardian.release(target.pid).pauses
            assert min(pauses) < 5_000_000, "it is looked at every 5 ms, and stops several times"
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_python_with_threads_goes_on(tmp_path: Path) -> None:
    program = (
        "import sys, threading, time\n"
        "count = [0] * 8\n"
        "def work(number):\n"
        "    while True: count[number] += 1; time.sleep(0.0005)\n"
        "for number in range(8): threading.Thread(target=work, args=(number,), daemon=True).start()\n"
        "print('ready', flush=True)\n"
        "while sys.stdin.read(1): print(min(count), flush=True)\n"
    )
    with begun([sys.executable, "-c", program]) as target:
        assert target.line() == "ready"
        for number in range(3):
            before = int(target.ask())
            assert take(target.pid, tmp_path / f"{number}.core").returncode == 0
            time.sleep(0.2)
            assert int(target.ask()) > before


def survives(target: Running) -> None:
    """It runs, counts, and nothing of memdump is in it."""
    before = int(target.ask().split()[0])
    deadline = time.monotonic() + 10
    while target.status("TracerPid") != "0" or target.children():
        assert time.monotonic() < deadline, "the guardian does not let go"
        time.sleep(0.002)
    while int((told := target.ask().split(" ", 1))[0]) <= before:
        assert time.monotonic() < deadline, "the target stands still"
        time.sleep(0.01)
    children = told[1]
    assert children == "childless"
    assert target.status("SigBlk") == "0" * 16
    is_not_watched(target.pid)


def is_not_watched(pid: int) -> None:
    """The kernel notes its writes no more, and nothing is open for that."""
    deadline = time.monotonic() + 10
    while any("uw" in line.split() for line in Path(f"/proc/{pid}/smaps").read_text().splitlines()):
        assert time.monotonic() < deadline, "its memory is still watched"
        time.sleep(0.01)
    assert not any("userfaultfd" in str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.parametrize("mode", COPIED_OR_READ)
@pytest.mark.parametrize("threads", [1, 16])
def test_memdump_is_killed_at_any_moment(threads: int, mode: str) -> None:
    """SIGKILL, many times, most of them while the process stands or its copy is there."""
    chance = random.Random(f"{threads} {mode}")
    with running("counting", threads) as target:
        for _ in range(60):
            taker = _taker(target.pid, mode)
            _until_it_begins(target, chance)
            os.kill(taker, signal.SIGKILL)
            os.waitpid(taker, 0)
            survives(target)


@pytest.mark.parametrize("mode", COPIED_OR_READ)
def test_the_command_is_killed(tmp_path: Path, mode: str) -> None:
    """The same with the whole command, and its process group as a terminal would kill it."""
    chance = random.Random(mode)
    with running("counting", 3) as target:
        for number in range(5):
            words = memdump(target.pid, tmp_path / f"{number}.core", "--mode", mode)
            dump = subprocess.Popen(
                words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            _until_it_begins(target, chance)
            os.killpg(dump.pid, signal.SIGKILL)
            dump.wait()
            survives(target)


def _taker(pid: int, mode: str) -> int:
    """Begin a process that takes another one, as the command does, and reads it for a while."""
    taker = os.fork()
    if taker:
        return taker
    try:
        found = survey(pid, mode)
        if mode == "precopy":
            _take_beforehand(found)
            return 0
        with Guardian([found.wanted(Choice())]) as guardian:
            (captured,) = guardian.hold().captured
            with core(captured, guardian, found.details, Choice(), found.owner) as laid_out:
                write(laid_out, _Nowhere(), lambda _: None, lambda: None)
            guardian.release(pid)
    finally:
        os._exit(0)


def _take_beforehand(found: Target) -> None:
    with Guardian([found.beforehand.wanted(Choice())]) as guardian:
        guardian.watch(found.pid)
        guardian.hold()
        guardian.release(found.pid)


class _Nowhere:
    def write(self, data: object, /) -> None:
        """Take it slowly."""
        time.sleep(0.0005)


def _until_it_begins(target: Running, chance: random.Random) -> None:
    """Wait until the guardian has come, mostly, and then a while."""
    deadline = time.monotonic() + (5 if chance.random() < 0.9 else chance.random() * 0.02)
    while target.status("TracerPid") == "0" and time.monotonic() < deadline:
        time.sleep(0)
    time.sleep(chance.random() * chance.choice((0.0003, 0.003, 0.03)))


def test_the_process_ends_meanwhile(tmp_path: Path) -> None:
    """It is killed while its copy is being read: the copy holds what there was."""
    with running("tick", 300) as target:
        dump = subprocess.Popen(
            memdump(target.pid, tmp_path / "a.core", "--mode", "fork"), stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 10
        while not (child := target.children()) and time.monotonic() < deadline:
            time.sleep(0)
        while target.status("TracerPid") != "0" and time.monotonic() < deadline:
            time.sleep(0)
        assert child
        target.process.kill()
        target.process.wait()
        assert dump.wait() == 0, dump.stderr and dump.stderr.read()
        assert dump.stderr
        dump.stderr.close()
        deadline = time.monotonic() + 5
        while os.path.exists(f"/proc/{child}/mem") and time.monotonic() < deadline:  # noqa: PTH110
            time.sleep(0.01)
        assert not os.path.exists(f"/proc/{child}/exe") or _is_zombie(int(child))  # noqa: PTH110


def _is_zombie(pid: int) -> bool:
    """Whoever inherits the copy reaps it, and may take its time."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_text()
        return text[text.rindex(")") + 2] == "Z"
    return True


@pytest.mark.parametrize("mode", MODES)
def test_a_process_whose_main_thread_has_ended(tmp_path: Path, mode: str) -> None:
    """What ``/proc`` tells of such a process, its other threads have to tell."""
    number = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
    program = (
        "import ctypes, threading\n"
        "def run():\n    for line in open(0): print('here', flush=True)\n"
        "threading.Thread(target=run).start()\n"
        f"print('ready', flush=True); ctypes.CDLL(None).syscall({number}, 0)"
    )
    with begun([sys.executable, "-c", program]) as target:
        assert target.line() == "ready"
        while target.state != "Z":
            time.sleep(0.01)
        done = take(target.pid, tmp_path / "a.core", "--mode", mode)
        assert done.returncode == 0, done.stderr
        told = json.loads((tmp_path / "a.core.json").read_text())["process"]
        assert (told["mode"], told["threads"], told["left_behind"]) == (mode, 1, None)
        assert told["executable"] == str(Path(sys.executable).resolve())
        assert len(told["pause_us"]) == (2 if mode in ("fork", "precopy") else 1)
        assert target.process.stdin
        target.process.stdin.write("?\n")
        target.process.stdin.flush()
        assert target.line() == "here"


@pytest.mark.parametrize("how", ["vfork", "clone"])
def test_a_parent_that_waits_in_vfork_is_told_from_one_that_waits_for_a_device(
    tmp_path: Path, how: str
) -> None:
    with running("begetting", how) as target:
        while target.state != "D":
            time.sleep(0.01)
        done = take(target.pid, tmp_path / "a.core")
        assert done.returncode == 1
        assert "waits until the child that it has made (vfork) executes a program or ends" in done.stderr
        assert "device" not in done.stderr
        assert not list(tmp_path.iterdir())
        assert (target.state, target.status("TracerPid")) == ("D", "0")
        os.kill(int(target.children()), signal.SIGKILL)
        assert target.line() == "goes on"


def test_a_process_that_stops_too_late_to_wait_for_its_copy_goes_on_all_the_same() -> None:
    """It waits in vfork when its copy is taken away, and goes on while another one is still held."""
    with running("begetting", "vfork", "later") as target, running("counting", 1) as other:
        wanted = [survey(one.pid, "fork").wanted(Choice()) for one in (target, other)]
        with Guardian(wanted) as guardian:
            copy = next(one.child for one in guardian.hold().captured if one.pid == target.pid)
            assert target.process.stdin
            target.process.stdin.write("?")
            target.process.stdin.flush()
            while target.state != "D":
                time.sleep(0.01)
            left = guardian.release(target.pid).left
            assert left and left.endswith("until it ends: no thread could be stopped")
            (child,) = set(map(int, target.children().split())) - {copy}
            os.kill(child, signal.SIGKILL)
            assert target.line() == "goes on"


@contextlib.contextmanager
def borrowing(target: Running) -> Iterator[Capture]:
    """Stop a process from here, and let go of it in the end."""
    capture = Capture(Wanted(target.pid, "fork"), this())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    try:
        capture.prepare()
        capture.attach()
        capture.stop()
        capture.settle(1)
        yield capture
    finally:
        assert capture.end() is None
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_nothing_is_killed_that_may_be_another_process_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is killed once: what has its id when it is no more is not ours."""
    killed, kill = [], os.kill

    def noted(pid: int, number: int) -> None:
        killed.append((pid, number))
        kill(pid, number)

    monkeypatch.setattr(os, "kill", noted)
    with running("counting", 2) as target:
        with borrowing(target) as capture:
            _copy(capture)
            copy = capture.child
        assert killed == [(copy, signal.SIGKILL)]
        survives(target)


@pytest.mark.parametrize("undone", [False, True])
def test_a_stop_that_comes_while_a_thread_is_borrowed_holds_unless_it_is_undone(
    monkeypatch: pytest.MonkeyPatch, undone: bool
) -> None:
    """SIGSTOP comes on the way of the call, and SIGCONT, if at all, while the thread stands for SIGSTOP."""
    sent: list[signal.Signals] = []
    to_call, wait = ptrace.to_call, ptrace.wait

    def stopping(tid: int, *number: int) -> None:
        if not sent:
            sent.append(signal.SIGSTOP)
            os.kill(target.pid, signal.SIGSTOP)
        to_call(tid, *number)

    def continuing(tid: int, now: bool = False) -> ptrace.Stop | None:
        stop = wait(tid, now)
        if undone and stop and (stop.signal, stop.event) == (signal.SIGSTOP, 0):
            sent.append(signal.SIGCONT)
            os.kill(target.pid, signal.SIGCONT)
        return stop

    with running("counting", 2) as target:
        with borrowing(target) as capture:
            monkeypatch.setattr(ptrace, "to_call", stopping)
            monkeypatch.setattr(ptrace, "wait", continuing)
            _copy(capture)
            assert capture.child
        assert sent == ([signal.SIGSTOP, signal.SIGCONT] if undone else [signal.SIGSTOP])
        time.sleep(0.05)
        assert (target.state == "T") is not undone
        os.kill(target.pid, signal.SIGCONT)
        survives(target)


def test_a_call_that_faults_leaves_the_process_as_it_was() -> None:
    """There is no instruction at this address any more, say: the fault is not the program's."""
    with running("counting", 2) as target:
        with borrowing(target), pytest.raises(inject.Forced, match="SIGSEGV"):
            inject.call(target.pid, this(), inject.Instructions(16), "wait4")
        time.sleep(0.05)
        assert target.state != "T"
        survives(target)


def _copy(capture: Capture) -> None:
    capture.take(mmap.mmap(-1, 1 << 20), 0)
    capture.copy()


def test_the_copy_ends_with_a_process_that_ends_while_it_is_made() -> None:
    with running("counting", 2) as target:
        taker = os.fork()
        if not taker:
            _clone_and_kill(target.pid)
        assert os.waitstatus_to_exitcode(os.waitpid(taker, 0)[1]) == 0


def _clone_and_kill(pid: int) -> None:
    """Have a process make a copy and end before it comes back; whether the copy is no more is the status."""
    copies, adopt = [], inject.adopt

    def adopt_and_kill(child: int) -> int:
        copies.append(adopt(child))
        os.kill(pid, signal.SIGKILL)
        return child

    inject.adopt = adopt_and_kill
    try:
        capture = Capture(Wanted(pid, "fork"), this())
        capture.prepare()
        capture.attach()
        capture.stop()
        capture.settle(1)
        with contextlib.suppress(ProcessLookupError):
            _copy(capture)
        os._exit(0 if copies and _is_zombie(copies[0]) else 1)
    finally:
        os._exit(2)
