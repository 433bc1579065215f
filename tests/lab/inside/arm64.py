"""Run by a guest with arm64 processors: processes are taken, and what they notice of it is written down.

Then the memory of the machine is taken.  All goes back to the host in one archive, through a port of its own;
the image goes through another.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdump import cli
from tests.lab.inside import dying, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LAB, OUT = Path("/lab"), Path("/lab/out")
PORT, WIRE = "/dev/vport0p1", "/dev/vport0p2"
MODES = ("fork", "freeze", "live")
"""Those that several processes may be taken in."""
BEFOREHAND = ("poll", "epoll_wait", "futex_timeout", "nanosleep", "accept_timeout", "wait4")
"""Calls in which processes wait that are taken each alone, copied while they run."""
UNGUARDED = ("read", "futex", "nanosleep")
"""Calls in which processes wait whose guardian is killed."""
SLEEP = 6.0
PATIENCE = 60


class Target:
    """A program of the lab that runs."""

    def __init__(self, name: str, *arguments: object) -> None:
        program = str(LAB / "targets" / name)
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        self.process = subprocess.Popen(
            [program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=OUT,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, unlimited),
        )
        self.pid = self.process.pid
        self.first = self.line()

    def line(self) -> str:
        """What it says next; nothing where it says nothing."""
        assert self.process.stdout
        found = b""
        while not found.endswith(b"\n") and select.select([self.process.stdout], [], [], PATIENCE)[0]:
            byte = os.read(self.process.stdout.fileno(), 1)
            if not byte:
                break
            found += byte
        return found.decode().strip()

    def ask(self) -> str:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(b"?")
            self.process.stdin.flush()
        return self.line()

    def state(self) -> dict[str, str]:
        """What the kernel says of it, and what it has said by itself."""
        assert self.process.stdout
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        told = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        said = select.select([self.process.stdout], [], [], 0)[0]
        return {
            "state": told["State"][:1],
            "tracer": told["TracerPid"],
            "blocked": told["SigBlk"],
            "children": children,
            "said": self.line() if said else "",
        }


@contextlib.contextmanager
def running(name: str, *arguments: object) -> Iterator[Target]:
    target = Target(name, *arguments)
    try:
        yield target
    finally:
        target.process.kill()
        target.process.wait()


def begin(*words: object) -> int:
    """Begin the command in a process of its own, without starting another Python."""
    pid = os.fork()
    if pid:
        return pid
    with (OUT / "memdump.log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os._exit(cli.main(["process", *map(str, words), "--no-encrypt"]))


def take(*words: object) -> int:
    """Run the command; its exit status."""
    _, status = os.waitpid(begin(*words), 0)
    return os.waitstatus_to_exitcode(status)


def blocked() -> dict[str, Any]:
    """Programs in calls that must not come back, taken all together in each mode."""
    told: dict[str, Any] = {}
    calls = json.loads((LAB / "calls.json").read_text())
    with contextlib.ExitStack() as stack:
        targets = {call: stack.enter_context(running("blocked", call)) for call in calls}
        time.sleep(1)
        before = {call: target.state() for call, target in targets.items()}
        for mode in (*MODES, "fork"):
            folder = OUT / f"blocked-{mode}-{len(told)}"
            folder.mkdir()
            status = take(*(target.pid for target in targets.values()), folder, "--mode", mode)
            time.sleep(0.5)
            after = {call: target.state() for call, target in targets.items()}
            modes = {}
            for path in folder.glob("*.json"):
                process = json.loads(path.read_text())["process"]
                modes[process["pid"]] = process["mode"]
            taken = {call: modes.get(target.pid) for call, target in targets.items()}
            told[folder.name] = {"mode": mode, "status": status, "after": after, "modes": taken}
            shutil.rmtree(folder)
    return {"before": before, "runs": told}


def beforehand() -> dict[str, Any]:
    """Programs in calls that must not come back, each copied while it runs; before and after."""
    told = {}
    for call in BEFOREHAND:
        with running("blocked", call) as target:
            time.sleep(0.5)
            before = target.state()
            status = take(target.pid, OUT / "beforehand.core", "--mode", "precopy")
            process = json.loads((OUT / "beforehand.core.json").read_text())["process"]
            time.sleep(0.2)
            told[call] = {"status": status, "mode": process["mode"], "states": [before, target.state()]}
            _remove("beforehand.core*")
    return told


def sleeping() -> dict[str, float]:
    """How long a sleep takes during which its process is taken, by the call that sleeps."""
    seconds = {}
    commands = {
        "nanosleep": ["sleep", str(SLEEP)],
        "clock_nanosleep": ["python3", "-c", f"import time; time.sleep({SLEEP})"],
        "ppoll": ["python3", "-c", f"import select; select.poll().poll({SLEEP * 1000})"],
    }
    for name, command in commands.items():
        start = time.monotonic()
        process = subprocess.Popen(command)
        time.sleep(SLEEP / 2)
        take(process.pid, OUT / "sleep.core")
        process.wait()
        seconds[name] = time.monotonic() - start
        _remove("sleep.core*")
    return seconds


def deep() -> dict[str, Any]:
    """Threads that stand still, beside gdb's core and the kernel's."""
    with running("deep", 8) as target:
        status = [take(target.pid, OUT / f"deep-{mode}.core", "--mode", mode) for mode in (*MODES, "precopy")]
        words = ["gdb", "-batch", "-nx", "-p", str(target.pid), "-ex", f"gcore {OUT / 'deep-gcore.core'}"]
        subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        target.process.send_signal(signal.SIGABRT)
        target.process.wait()
    return {"status": status}


def counting() -> dict[str, Any]:
    """Threads that count in their registers, taken again and again; memdump is killed at some moments too."""
    with running("counting", 3) as target:
        told = [target.ask()]
        for mode in (*MODES, "precopy"):
            take(target.pid, OUT / "counting.core", "--mode", mode)
            told.append(target.ask())
            _remove("counting.core*")
        for number in range(6):
            pid = begin(target.pid, OUT / "killed.core")
            time.sleep(0.05 + 0.1 * number)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            _eventually(lambda: target.state()["tracer"] == "0" and not target.state()["children"].strip())
            told.append(target.ask())
            _remove("killed.core*")
        return {"told": told, "state": target.state()}


def unguarded() -> dict[str, Any]:
    """Programs whose guardian is killed before each of its requests: how many, and what is wrong then."""
    told: dict[str, Any] = {}
    for call in UNGUARDED:
        with running("blocked", call) as target:
            time.sleep(0.5)
            before = _at_rest(target)
            told[call] = _before_each_request(
                target, functools.partial(_at_rest, target), before.__eq__, anywhere=False
            )
    for name, arguments in (("arm64_vectors", (200,)), ("counting", (2,))):
        with _on_one_processor(), running(name, *arguments) as target:
            counted = [0]

            def goes_on(state: list[Any], counted: list[int] = counted) -> bool:
                *rest, said = state
                counted.append(int(said.split()[0]) if said else 0)
                return rest == ["0", "0" * 16, []] and counted[-1] > counted[-2]

            def state(target: Target = target) -> list[Any]:
                told = target.state()
                return [told["tracer"], told["blocked"], _living(target), target.ask()]

            told[name] = _before_each_request(target, state, goes_on, anywhere=True)
    return told


@contextlib.contextmanager
def _on_one_processor() -> Iterator[None]:
    """Stay on one: QEMU gives each a tenth of a second, so that one that computes has the others wait."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


def _before_each_request(
    target: Target, state: Callable[[], Any], right: Callable[[Any], bool], *, anywhere: bool
) -> dict[str, Any]:
    number, found = 0, None
    for number in dying.points(target.pid, anywhere=anywhere):
        deadline = time.monotonic() + 5
        while not right(found := state()):
            if time.monotonic() > deadline:
                return {"requests": number, "wrong": found}
            time.sleep(0.01)
    return {"requests": number, "wrong": None}


def _at_rest(target: Target) -> dict[str, Any]:
    return target.state() | {"children": _living(target)}


def _living(target: Target) -> list[str]:
    """The children of a process that are no zombies."""
    found = []
    for child in target.state()["children"].split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.append(child)
    return found


def vectors() -> dict[str, Any]:
    """A program that computes in registers which calls do not preserve."""
    with running("arm64_vectors") as target:
        status = [take(target.pid, OUT / f"vectors-{number}.core") for number in range(2)]
        _remove("vectors-*")
        return {"status": status, "told": target.ask(), "first": target.first}


def pattern() -> dict[str, Any]:
    with running("pattern", 1) as target:
        status = [
            take(target.pid, OUT / f"pattern-{mode}.core", "--mode", mode) for mode in ("fork", "precopy")
        ]
        return {"status": status, "where": target.first}


def signals() -> dict[str, Any]:
    """Signals that come while a process is taken, each answered with a byte."""
    with running("signals") as target:
        assert target.process.stdout
        pid, sent, answered = begin(target.pid, OUT / "signals.core"), 0, 0
        while not (done := os.waitpid(pid, os.WNOHANG))[0]:
            os.kill(target.pid, signal.SIGUSR1)
            sent += 1
            answered += os.read(target.process.stdout.fileno(), 1) == b"!"
            time.sleep(0.001)
        _remove("signals.core*")
        status = os.waitstatus_to_exitcode(done[1])
        return {"sent": sent, "answered": answered, "status": status, **target.state()}


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def _remove(pattern: str) -> None:
    for path in OUT.glob(pattern):
        path.unlink()


def run() -> dict[str, Any]:
    """Take processes, and write down what they notice and what the kernel says of the machine."""
    Path("/proc/sys/kernel/core_pattern").write_text(f"{OUT}/deep-kernel.core\n")
    told: dict[str, Any] = {"uname": list(os.uname())}
    for step in (deep, blocked, beforehand, sleeping, counting, unguarded, vectors, pattern, signals):
        start = time.monotonic()
        try:
            told[step.__name__] = step()
        except Exception:
            told[step.__name__] = {"failure": traceback.format_exc()}
        sys.stderr.write(f"lab: {step.__name__} took {time.monotonic() - start:.1f} s\n")
    (OUT / "told.json").write_text(json.dumps(told))
    machine = {**record.machine(), "rodata": _rodata()}
    (OUT / "truth.json").write_text(json.dumps({"machine": machine}))
    record.wait_until_quiet()
    return told


def _rodata() -> list[int]:
    """First and last address of the kernel's constants, which iomem of arm64 does not tell from its code."""
    start, end = (record.physical_address(f"__{which}_rodata") for which in ("start", "end"))
    return [start, end - 1]


def do(what: str) -> int:
    """Send the memory to the host, or what was seen of all."""
    return {"acquire": acquire, "send": send}[what]()


def acquire() -> int:
    """Take the memory with the program of one file, as it is sent over a network; its exit status."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_lead_on, args=(server,), daemon=True).start()
        place = f"tcp:127.0.0.1:{server.getsockname()[1]}"
        agent = [sys.executable, str(LAB / "memdump-agent.pyz"), "acquire", place]
        with (OUT / "acquire.log").open("w") as log:
            return subprocess.run([*agent, "--no-encrypt"], stdout=log, stderr=log, check=False).returncode


def _lead_on(server: socket.socket) -> None:
    """Lead a connection on to the host."""
    _eventually(Path(WIRE).exists)
    with server.accept()[0] as connection, open(WIRE, "r+b", buffering=0) as wire:
        back = threading.Thread(target=_copy, args=(wire.read, connection.sendall), daemon=True)
        back.start()
        _copy(connection.recv, wire.write)
        back.join()


def _copy(read: Callable[[int], bytes], write: Callable[[memoryview], int | None]) -> None:
    while data := memoryview(read(1 << 20)):
        while data:
            data = data[write(data) or len(data) :]


def send() -> int:
    """Send what was seen."""
    with gzip.open(PORT, "wb", compresslevel=1) as port, tarfile.open(fileobj=port, mode="w|") as archive:
        archive.add(OUT, ".")
    return 0
