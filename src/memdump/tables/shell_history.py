"""The ``shell_history`` table: what was typed at interactive shells, out of their memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the column is made of it
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from memdump.kernel.clocks import SECOND, utc
from memdump.kernel.text import decode
from memdump.kernel.usermemory import PAGE, UserMemory, private_areas
from memdump.tables import bash, tasks, zsh
from memdump.tables.heap import Heap, Line
from memdump.tables.schema import table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from memdump.kernel.kernel import Kernel

TABLE = "shell_history"
MOST_MEMORY = 256 << 20
"""No process is searched further, in bytes: what fills more keeps data, not history."""

SHELLS = {"bash": bash, "rbash": bash, "sh": bash, "zsh": zsh, "zsh5": zsh, "rzsh": zsh}
"""What finds the history of a shell, by what the shell is called."""

MARKS = {b"\0BASH_VERSINFO\0": bash, b"\0ZSH_VERSION\0": zsh}
"""What a shell that is called otherwise is known by: the name of a variable that it makes as it starts."""

START_OF_HEAP = 1 << 20
"""How far into the heap such a name is looked for, in bytes: before it stands the environment."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A line of the history of an interactive shell that runs, in the order of the shell itself.

    That is what it had loaded from its history file, then what was typed since.
    """

    pid: Annotated[int, "Process id of the shell"]
    shell: Annotated[str, "Which shell it is: bash or zsh"]
    time: Annotated[
        datetime | None,
        "When it was entered; of a line from a history file without times: for bash when that was loaded, "
        "for zsh None",
    ]
    command: Annotated[str, "The line as it was typed; several where the command goes over several"]


class _History(NamedTuple):
    shell: str
    parent: int
    """Process id of the shell's parent."""
    lines: list[Line]


@table(HistoryEntry)
def shell_history(kernel: Kernel) -> Iterator[HistoryEntry]:
    """Search every shell; what a subshell has got from its parent is the parent's."""
    histories: dict[int, _History] = {}
    shells = _Shells(kernel)
    for task in tasks.processes(kernel, TABLE):
        process = f"process {task.pid} ({task.name})"
        with kernel.problems.skipping(TABLE, process):
            shell = task.mm and shells.of(task.name, task.mm)
            if shell:
                lines = shell.find_history(Heap(_private_memory(kernel, task.mm, process)))
                parent = task.struct.real_parent.tgid.value_()
                histories[task.pid] = _History(shell.NAME, parent, lines)
    for pid, history in histories.items():
        inherited = set(histories[history.parent].lines) if history.parent in histories else ()
        for line in history.lines:
            if line not in inherited:
                time = None if line.seconds is None else utc(line.seconds * SECOND)
                yield HistoryEntry(pid, history.shell, time, decode(line.text))


class _Shells:
    """Tells which shell a process is: by its name, or by the heap of the first that runs the same program."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._known: dict[int, ModuleType | None] = {}
        """By the inode of the program."""

    def of(self, name: str, mm: Any) -> ModuleType | None:
        """What finds the history of a process of that name and ``mm_struct``; None if it is no shell."""
        file = mm.exe_file
        if name in SHELLS or not file:
            return SHELLS.get(name)
        inode = file.f_inode.value_()
        if inode not in self._known:
            program = self._kernel.paths.of_mapped(file).text.rpartition("/")[2]
            self._known[inode] = SHELLS.get(program) or self._marked(mm)
        return self._known[inode]

    def _marked(self, mm: Any) -> ModuleType | None:
        memory = UserMemory(self._kernel, mm.pgd.value_(), START_OF_HEAP // PAGE)
        start = mm.start_brk.value_()
        for _, data in memory.chunks(start, min(mm.brk.value_(), start + START_OF_HEAP)):
            for mark, shell in MARKS.items():
                if mark in data:
                    return shell
        return None


def _private_memory(kernel: Kernel, mm: Any, process: str) -> Iterator[tuple[int, bytes]]:
    """The memory that a process has written for itself and that no file stands behind: heap, bss, stack."""
    memory = UserMemory(kernel, mm.pgd.value_(), MOST_MEMORY // PAGE)
    for start, end in private_areas(kernel, mm, TABLE, process):
        yield from memory.chunks(start, end)
    if memory.budget < 0:
        limit = f"searched no further than {MOST_MEMORY >> 20} MiB"
        kernel.problems.add(TABLE, f"memory of {process}", limit)
