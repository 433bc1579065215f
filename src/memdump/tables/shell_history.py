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

TABLE = "shell_history"
MOST_MEMORY = 256 << 20
"""No process is searched further, in bytes: what fills more keeps data, not history."""

SHELLS = frozenset({"bash", "rbash", "sh"})
"""What bash is called."""

MARK = b"\0BASH_VERSINFO\0"
"""What a bash that is called otherwise is known by: the name of a variable that it makes as it starts."""

START_OF_HEAP = 1 << 20
"""How far into the heap `MARK` is looked for, in bytes: before it stand the variables of the environment."""


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
    """Search every bash; what a subshell has got from its parent is the parent's."""
    histories: dict[int, tuple[int, list[bash.Line]]] = {}
    shells = _Shells(kernel)
    for task in tasks.processes(kernel, TABLE):
        process = f"process {task.pid} ({task.name})"
        with kernel.problems.skipping(TABLE, process):
            if task.mm is not None and shells.has(task.name, task.mm):
                lines = bash.find_history(_private_memory(kernel, task.mm, process))
                histories[task.pid] = task.struct.real_parent.tgid.value_(), lines
    for pid, (parent, lines) in histories.items():
        inherited = set(histories[parent][1]) if parent in histories else ()
        for line in lines:
            if line not in inherited:
                yield HistoryEntry(pid, "bash", utc(line.seconds * SECOND), decode(line.text))


class _Shells:
    """Tells which processes are a bash: by its name, or by the heap of the first that runs the same file."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._known: dict[int, bool] = {}
        """By the inode of the executable."""

    def has(self, name: str, mm: Any) -> bool:
        """Whether the process of that name and ``struct mm_struct *`` is a bash."""
        file = mm.exe_file
        if name in SHELLS or not file:
            return name in SHELLS
        inode = file.f_inode.value_()
        if inode not in self._known:
            path = self._kernel.paths.of_mapped(file).text
            self._known[inode] = path.rpartition("/")[2] in SHELLS or self._is_marked(mm)
        return self._known[inode]

    def _is_marked(self, mm: Any) -> bool:
        memory = UserMemory(self._kernel, mm.pgd.value_(), START_OF_HEAP // PAGE)
        start = mm.start_brk.value_()
        end = min(mm.brk.value_(), start + START_OF_HEAP)
        return any(MARK in data for _, data in memory.chunks(start, end))


def _private_memory(kernel: Kernel, mm: Any, process: str) -> Iterator[tuple[int, bytes]]:
    """The memory that a process has written for itself and that no file stands behind: heap, bss, stack."""
    memory = UserMemory(kernel, mm.pgd.value_(), MOST_MEMORY // PAGE)
    for start, end in private_areas(kernel, mm, TABLE, process):
        yield from memory.chunks(start, end)
    if memory.budget < 0:
        limit = f"searched no further than {MOST_MEMORY >> 20} MiB"
        kernel.problems.add(TABLE, f"memory of {process}", limit)
