"""The ``shell_history`` table: what was typed at interactive shells, out of their memory.

Bash keeps its history in the structures of libreadline (``history.h``, ``history.c``), for which there are no
symbols here:

    typedef struct _hist_entry { char *line; char *timestamp; histdata_t data; } HIST_ENTRY;
    static HIST_ENTRY **the_history;    /* the oldest first, a null pointer behind the last */

A timestamp is text: ``#`` and the seconds since 1970.  So these are looked for, then what points to one of
them and to a line, then the list that points to those entries.  Only what is in that list is history: it has
the order, and neither what was deleted nor what merely looks like an entry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the column is made of it
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from memdump.kernel.clocks import SECOND, utc
from memdump.kernel.text import decode
from memdump.kernel.usermemory import PAGE, UserMemory, private_areas
from memdump.tables import tasks
from memdump.tables.schema import table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel
    from memdump.tables.tasks import Task

MOST_MEMORY = 256 << 20
"""No process is searched further, in bytes: what fills more keeps data, not history."""

LONGEST_LINE = 1 << 20
WORD = 8
TIMESTAMP = re.compile(rb"#([0-9]{1,20})\0")

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


class Line(NamedTuple):
    """A history entry as it stands in memory."""

    address: int
    seconds: int
    text: bytes


@table(HistoryEntry)
def shell_history(kernel: Kernel) -> Iterator[HistoryEntry]:
    """Search every process that may be a bash; what a subshell has got from its parent is the parent's."""
    histories: dict[int, tuple[int, list[Line]]] = {}
    for task in tasks.processes(kernel, "shell_history"):
        with kernel.problems.skipping("shell_history", f"process {task.pid} ({task.name})"):
            lines = _history(kernel, task)
            if lines:
                histories[task.pid] = task.struct.real_parent.tgid.value_(), lines
    for pid, (parent, lines) in histories.items():
        inherited = set(histories[parent][1]) if parent in histories else ()
        for line in lines:
            if line not in inherited:
                yield HistoryEntry(pid, "bash", utc(line.seconds * SECOND), decode(line.text))


def _history(kernel: Kernel, task: Task) -> list[Line]:
    """The history of a process; none where it is no interactive bash."""
    mm = task.mm
    if mm is None:
        return []
    named = not SHELLS.isdisjoint((task.name, _executable(kernel, mm)))
    if not named and not task.struct.signal.tty:
        return []
    memory = _Memory(_private_memory(kernel, mm, f"process {task.pid} ({task.name})"))
    entries = memory.entries()
    listed = memory.longest_list(entries)
    if len(listed) >= CERTAIN or (named and listed):
        return [entries[address] for address in listed]
    return []


def _executable(kernel: Kernel, mm: Any) -> str:
    """The name of the file that a process runs, without its folder."""
    return kernel.paths.of_mapped(mm.exe_file).text.rpartition("/")[2] if mm.exe_file else ""


def _private_memory(kernel: Kernel, mm: Any, process: str) -> Iterator[tuple[int, bytes]]:
    """The memory that a process has written for itself and that no file stands behind: heap, bss, stack."""
    memory = UserMemory(kernel, mm.pgd.value_(), MOST_MEMORY // PAGE)
    for start, end in private_areas(kernel, mm, "shell_history", process):
        yield from memory.chunks(start, end)
    if memory.budget < 0:
        kernel.problems.add(
            "shell_history", f"memory of {process}", f"searched no further than {MOST_MEMORY >> 20} MiB"
        )


class _Memory:
    """Memory of a process that is searched for history entries."""

    def __init__(self, chunks: Iterator[tuple[int, bytes]]) -> None:
        self._chunks = list(chunks)

    def entries(self) -> dict[int, Line]:
        """What looks like a history entry, by its address."""
        timestamps = {
            start + found.start(): int(found[1])
            for start, data in self._chunks
            for found in TIMESTAMP.finditer(data)
        }
        entries: dict[int, Line] = {}
        for start, index, words in self._pointing_to(timestamps) if timestamps else ():
            text = self._string(words[index - 1]) if index else None
            if text is not None:
                address = start + (index - 1) * WORD
                entries[address] = Line(address, timestamps[words[index]], text)
        return entries

    def longest_list(self, entries: dict[int, Line]) -> list[int]:
        """The longest list of pointers to entries; what has been lost of it is left out."""
        longest: list[int] = []
        chunk, done = -1, 0
        for start, first, words in self._pointing_to(entries) if entries else ():
            if start == chunk and first < done:
                continue
            last = first
            while last < len(words) and words[last]:
                last += 1
            chunk, done = start, last
            listed = [word for word in words[first:last] if word in entries]
            # There has to be an end, and more entries than other things.
            if last < len(words) and len(listed) * 2 > last - first and len(listed) > len(longest):
                longest = listed
        return longest

    def _pointing_to(self, wanted: dict[int, int] | dict[int, Line]) -> Iterator[tuple[int, int, memoryview]]:
        """Pointers to one of ``wanted``, ascending: the address of their chunk, their index, its words."""
        for start, data in self._chunks:
            words = memoryview(data)[: len(data) // WORD * WORD].cast("Q")
            if wanted.keys().isdisjoint(words):  # Quicker than to look at each, and most have none.
                continue
            for index in [index for index, word in enumerate(words) if word in wanted]:
                yield start, index, words

    def _string(self, address: int) -> bytes | None:
        """The string at an address; None where there is none."""
        for start, data in self._chunks:
            if start <= address < start + len(data):
                end = data.find(b"\0", address - start, address - start + LONGEST_LINE)
                return data[address - start : end] if end >= 0 else None
        return None
