"""Programs that are taken while they run."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import select
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memdump.process import watching

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE = 10
_FOLDER = Path(__file__).parent
CORE_PATTERN = "/proc/sys/kernel/core_pattern"
CALLS = (
    "read",
    "poll",
    "ppoll",
    "select",
    "epoll_wait",
    "epoll_pwait",
    "futex",
    "futex_timeout",
    "nanosleep",
    "accept",
    "accept_timeout",
    "recv_timeout",
    "connect_timeout",
    "connect_here_timeout",
    "sendfile_timeout",
    "splice_timeout",
    "splice_out_timeout",
    "semop",
    "sigtimedwait",
    "wait4",
)
"""What ``blocked.c`` may wait in."""
WAITING_FOR_ALL = ("wait_all", "thread_waits_for_all", "thread_asks_for_all")
"""And for children of any kind, those that are copies included."""
MODES = ("fork", "freeze", "live", *(("precopy",) if watching.is_supported() else ()))
"""Those that this kernel can do."""
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
needs_gdb = pytest.mark.skipif(not shutil.which("gdb"), reason="gdb is not installed")


@functools.cache
def built(name: str, *options: str) -> Path:
    """Compile a program, once."""
    folder = Path(tempfile.mkdtemp(prefix="memdump-target-"))
    subprocess.run(
        ["gcc", "-g", "-O1", "-pthread", *options, _FOLDER / f"{name}.c", "-o", folder / name], check=True
    )
    return folder / name


class Running:
    """A program that runs, and talks through its standard input and output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def patient_line(self) -> str:
        """Read what it says next, however long it takes."""
        assert self.process.stdout
        select.select([self.process.stdout], [], [])
        return self.line()

    def line(self) -> str:
        """Read what it says next."""
        line = ""
        while not line.endswith("\n"):
            byte = self.byte()
            if len(byte) != 1:
                break
            line += byte
        return line.strip()

    def byte(self) -> str:
        """Read one more byte; it fails after some seconds."""
        assert self.process.stdout
        found, _, _ = select.select([self.process.stdout], [], [], _PATIENCE)
        return os.read(self.process.stdout.fileno(), 1).decode() if found else "nothing"

    def ask(self) -> str:
        """Have it tell how it is."""
        assert self.process.stdin
        self.process.stdin.write("?")
        self.process.stdin.flush()
        return self.line()

    @property
    def state(self) -> str:
        """The letter of its state."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        return text[text.rindex(")") + 2]

    def status(self, key: str) -> str:
        """One line of ``/proc/PID/status``."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.split(":\t")[1] for line in lines if line.startswith(f"{key}:"))

    def children(self) -> str:
        """The ids of its children."""
        return " ".join(
            path.read_text() for path in Path(f"/proc/{self.pid}/task").glob("*/children")
        ).strip()


@contextlib.contextmanager
def running(name: str, *arguments: object, first: bool = True) -> Iterator[Running]:
    """Run a program until the block ends; ``first`` waits for its first line."""
    command = [str(built(name)), *map(str, arguments)]
    with begun(command) as found:
        if first:
            assert found.line() == "ready"
        yield found


@contextlib.contextmanager
def begun(command: list[str]) -> Iterator[Running]:
    """Run a command until the block ends."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Running(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()


@contextlib.contextmanager
def aborted(command: list[str], folder: Path) -> Iterator[int]:
    """Run a command that tells when it is ready; its core is in ``folder`` when the block has ended."""
    if Path(CORE_PATTERN).read_text().strip() != "core":
        pytest.skip("the kernel does not write cores into the folder here")
    limit = resource.RLIM_INFINITY
    dying = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (limit, limit)),
    )
    with dying:
        assert dying.stdout
        assert dying.stdout.readline() == b"ready\n"
        try:
            yield dying.pid
        finally:
            dying.send_signal(signal.SIGABRT)
