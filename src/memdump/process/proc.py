"""What ``/proc/PID`` says of a process (kernel, ``Documentation/filesystems/proc.rst``)."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = "/proc"
_CALL_WORDS = 9


def read(pid: int, name: str) -> bytes:
    """Read a file of ``/proc/PID`` whole; raises ``OSError``."""
    file = os.open(f"{_ROOT}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts: list[bytes] = []
        while True:
            part = os.read(file, 1 << 18)
            if not part:
                return b"".join(parts)
            parts.append(part)
    finally:
        os.close(file)


def read_or_nothing(pid: int, name: str) -> bytes:
    """Read a file as `read` does; nothing where that fails."""
    try:
        return read(pid, name)
    except OSError:
        return b""


def read_at(pid: int, name: str, start: int, size: int) -> bytes:
    """Read some bytes of a file of a process's, or nothing where that cannot be."""
    with contextlib.suppress(OSError):
        file = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(file, size, start)
        finally:
            os.close(file)
    return b""


@contextlib.contextmanager
def memory(tid: int, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open the memory of a process by one of its threads; raises ``OSError``."""
    file = os.open(f"{_ROOT}/{tid}/mem", flags | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def threads(pid: int) -> list[int]:
    """Give the ids of the threads of a process, none where there is no such process."""
    try:
        return sorted(int(name) for name in os.listdir(f"{_ROOT}/{pid}/task"))  # noqa: PTH208
    except OSError:
        return []


def all_pids() -> list[int]:
    """Give the ids of all processes."""
    return sorted(int(name) for name in os.listdir(_ROOT) if name.isdigit())  # noqa: PTH208


class Status(NamedTuple):
    """What is used of ``/proc/PID/status``."""

    fields: dict[str, str]

    def number(self, key: str, index: int = 0, base: int = 10) -> int:
        """Give one of the numbers behind a key; 0 where the kernel does not tell it."""
        words = self.fields.get(key, "").split()
        return int(words[index], base) if index < len(words) else 0

    @property
    def state(self) -> str:
        """The letter of the state: ``R``, ``S``, ``D``, ``T``, ``t``, ``Z``, ``X``."""
        return self.fields.get("State", "?")[:1]


def status(pid: int) -> Status:
    """Read ``/proc/PID/status``; raises ``OSError``."""
    text = read(pid, "status").decode("utf-8", "backslashreplace")
    return Status(dict(line.split(":\t", 1) for line in text.split("\n") if ":\t" in line))


class Call(NamedTuple):
    """A system call that a thread waits in."""

    number: int
    arguments: tuple[int, ...]
    sp: int
    pc: int


def call(tid: int) -> Call | None:
    """Read ``/proc/TID/syscall``; None where the thread waits in none, or that is not told."""
    words = read_or_nothing(tid, "syscall").split()
    if len(words) != _CALL_WORDS or int(words[0]) < 0:
        return None
    *arguments, sp, pc = (int(word, 16) for word in words[1:])
    return Call(int(words[0]), tuple(arguments), sp, pc)


def runs(tid: int) -> bool:
    """Whether a thread executes something just now, as far as that is told."""
    return read_or_nothing(tid, "syscall").startswith(b"running")


class Stat(NamedTuple):
    """What a core wants to know of ``/proc/PID/stat``."""

    comm: bytes
    state: str
    parent: int
    group: int
    session: int
    flags: int
    nice: int
    utime: int
    """In ticks."""
    stime: int
    children_utime: int
    """Of children that have ended and were waited for."""
    children_stime: int
    started: int
    """Ticks after boot, which with the pid tells a process from all others."""
    exit_signal: int
    """What its parent gets when it ends."""


def stat(pid: int) -> Stat:
    """Read ``/proc/PID/stat``; raises ``OSError``."""
    return _parse_stat(read(pid, "stat"))


def thread_stat(pid: int, tid: int) -> Stat | None:
    """Read the same of a thread alone; None where it has ended."""
    data = read_or_nothing(pid, f"task/{tid}/stat")
    return _parse_stat(data) if data else None


def _parse_stat(data: bytes) -> Stat:
    # The name may hold anything, parentheses and newlines too.
    comm = data[data.index(b"(") + 1 : data.rindex(b")")]
    rest = data[data.rindex(b")") + 2 :].decode("ascii").split()
    numbers = [int(word) for word in rest[1:]]
    return Stat(
        comm=comm,
        state=rest[0],
        parent=numbers[0],
        group=numbers[1],
        session=numbers[2],
        flags=numbers[5],
        utime=numbers[10],
        stime=numbers[11],
        children_utime=numbers[12],
        children_stime=numbers[13],
        nice=numbers[15],
        started=numbers[18],
        exit_signal=numbers[34],
    )


def living(pid: int) -> int:
    """Give a thread that knows of the process's memory: the main one, unless it ended before the others."""
    for tid in (pid, *threads(pid)):
        with contextlib.suppress(OSError, ValueError):
            if stat(tid).state not in "ZX":
                return tid
    return pid


def comm(pid: int) -> str:
    """Give the short name of a process, as far as there is one."""
    with contextlib.suppress(OSError):
        return stat(pid).comm.decode("utf-8", "backslashreplace")
    return "?"
