"""Runs commands as whole processes and says what they took."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLE = 0.002
"""Seconds between two looks at the memory of a process."""


class Taken(NamedTuple):
    """What a process took."""

    seconds: float
    """From its start to its end."""
    processor: float
    """Seconds of processor time, which a busy machine stretches less."""
    first_row: float
    """Seconds to the first byte of its output."""
    anonymous: int
    """The most anonymous memory seen, in bytes; the pages of the image that are mapped do not count."""
    status: int
    output: str
    errors: str

    @property
    def rows(self) -> int:
        """Lines of output that say something."""
        return sum(1 for line in self.output.splitlines() if line.strip())


def script(name: str) -> str:
    """The command that belongs to this Python installation."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def run(command: Sequence[str | Path], cache: Path | None = None, **variables: str) -> Taken:
    """Run a command to its end; ``cache`` stands in for the user's cache folder."""
    environment = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache else {}), **variables}
    # What is installed runs from compiled code; from a work tree it would be compiled at every start.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout
    assert process.stderr
    errors: list[bytes] = []
    listener = threading.Thread(target=lambda stream: errors.append(stream.read()), args=(process.stderr,))
    listener.start()
    watcher = _Watcher(process.pid)
    watcher.start()
    first = process.stdout.read(1)
    first_row = time.perf_counter() - began
    output = first + process.stdout.read()
    watcher.stop()
    listener.join()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    return Taken(
        seconds,
        used.ru_utime + used.ru_stime,
        first_row,
        watcher.most,
        process.returncode,
        output.decode(errors="replace"),
        b"".join(errors).decode(errors="replace"),
    )


class _Watcher(threading.Thread):
    """Looks at the anonymous memory of a process until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self.most = 0

    def run(self) -> None:
        """Take the greatest of all samples."""
        while not self._over.wait(SAMPLE):
            for line in self._status.read_text().splitlines():
                if line.startswith("RssAnon:"):
                    self.most = max(self.most, int(line.split()[1]) * 1024)

    def stop(self) -> None:
        """End it; the process must not have been waited for yet."""
        self._over.set()
        self.join()


def drop_from_page_cache(path: Path) -> None:
    """Have the kernel forget what it has read of a file, as after a start of the machine."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def verdict(what: str, measured: float, goal: float, *, at_most: bool = False, unit: str = "x") -> str:
    """A line that says how a figure stands to its goal."""
    met = measured <= goal if at_most else measured >= goal
    bound = "at most" if at_most else "at least"
    return f"{what:<58} {measured:8.2f} {unit:<4} goal: {bound} {goal:g} {unit}  {'ok' if met else 'MISSED'}"
