"""The ``shell_history`` table: what was typed at interactive shells, out of their memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the column is made of it
from typing import TYPE_CHECKING, Annotated, Any

from memdump.kernel.clocks import SECOND, utc
from memdump.kernel.text import decode
from memdump.kernel.usermemory import PAGE, UserMemory, private_areas
from memdump.tables import bash, tasks
from memdump.tables.schema import table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel
    from memdump.tables.tasks import Task

TABLE = "shell_history"
MOST_MEMORY = 256 << 20
"""No process is searched further, in bytes: what fills more keeps data, not history."""

SHELLS = frozenset({"bash", "rbash", "sh"})
"""What bash is called; what is called otherwise but has a terminal may be a renamed one."""

CERTAIN = 3
"""So many entries in a list are no accident, whatever the process is called."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A line of the history of an interactive bash that runs, in the order of its own ``history`` command.

    That is what it had loaded from its history file, then what was typed since.
    """

    pid: Annotated[int, "Process id of the shell"]
    shell: Annotated[str, "Which shell it is: bash"]
    time: Annotated[
        datetime | None,
        "When it was entered; of a line from a history file without times: when that was loaded",
    ]
    command: Annotated[str, "The line as it was typed; several where the command goes over several"]


@table(HistoryEntry)
def shell_history(kernel: Kernel) -> Iterator[HistoryEntry]:
    """Search every process that may be a bash; what a subshell has got from its parent is the parent's."""
    histories: dict[int, tuple[int, list[bash.Line]]] = {}
    for task in tasks.processes(kernel, TABLE):
        with kernel.problems.skipping(TABLE, f"process {task.pid} ({task.name})"):
            lines = _history(kernel, task)
            if lines:
                histories[task.pid] = task.struct.real_parent.tgid.value_(), lines
    for pid, (parent, lines) in histories.items():
        inherited = set(histories[parent][1]) if parent in histories else ()
        for line in lines:
            if line not in inherited:
                yield HistoryEntry(pid, "bash", utc(line.seconds * SECOND), decode(line.text))


def _history(kernel: Kernel, task: Task) -> list[bash.Line]:
    """The history of a process; none where it is no interactive bash."""
    mm = task.mm
    if mm is None:
        return []
    named = not SHELLS.isdisjoint((task.name, _executable(kernel, mm)))
    if not named and not task.struct.signal.tty:
        return []
    lines = bash.find_history(_private_memory(kernel, mm, f"process {task.pid} ({task.name})"))
    return lines if named or len(lines) >= CERTAIN else []


def _executable(kernel: Kernel, mm: Any) -> str:
    """The name of the file that a process runs, without its folder."""
    return kernel.paths.of_mapped(mm.exe_file).text.rpartition("/")[2] if mm.exe_file else ""


def _private_memory(kernel: Kernel, mm: Any, process: str) -> Iterator[tuple[int, bytes]]:
    """The memory that a process has written for itself and that no file stands behind: heap, bss, stack."""
    memory = UserMemory(kernel, mm.pgd.value_(), MOST_MEMORY // PAGE)
    for start, end in private_areas(kernel, mm, TABLE, process):
        yield from memory.chunks(start, end)
    if memory.budget < 0:
        limit = f"searched no further than {MOST_MEMORY >> 20} MiB"
        kernel.problems.add(TABLE, f"memory of {process}", limit)
