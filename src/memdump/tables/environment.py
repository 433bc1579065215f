"""The ``environment`` table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from memdump.kernel.text import decode
from memdump.tables import tasks
from memdump.tables.schema import table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable that a process was started with; what it set later is on its heap."""

    pid: Annotated[int, "Process id"]
    process: Annotated[str, "Name of the process"]
    name: Annotated[str, "Name of the variable"]
    value: Annotated[str | None, "Its value; null where there was no equals sign: then all is in name"]


@table(Variable)
def environment(kernel: Kernel) -> Iterator[Variable]:
    """Yield the strings between ``env_start`` and ``env_end`` of each process, as ``/proc/PID/environ`` does.

    Empty ones are left out: a process that overwrites its arguments leaves them behind.
    """
    for task in tasks.processes(kernel, "environment"):
        if task.mm is None:
            continue
        place = f"process {task.pid} ({task.name})"
        with kernel.problems.skipping("environment", place):
            for name, value in variables(_environment(kernel, task.mm, place)):
                yield Variable(task.pid, task.name, name, value)


def variables(block: bytes) -> Iterator[tuple[str, str | None]]:
    """The names and values in a block of strings that each end with a NUL (``environ(7)``)."""
    for entry in block.split(b"\0"):
        if entry:
            name, equals, value = entry.partition(b"=")
            yield decode(name), decode(value) if equals else None


def _environment(kernel: Kernel, mm: Any, place: str) -> bytes:
    start, end = mm.env_start.value_(), mm.env_end.value_()
    if not start < end:
        return b""
    size = min(end - start, tasks.LONGEST_ARGUMENTS)
    return tasks.read_user(kernel, mm, start, size, "environment", place)
