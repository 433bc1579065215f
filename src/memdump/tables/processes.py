"""The ``processes`` table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the types of columns are looked up
from typing import TYPE_CHECKING, Annotated, Any

from memdump.kernel.cgroups import Cgroups, container_id
from memdump.kernel.clocks import Clocks, read_clocks
from memdump.kernel.text import decode
from memdump.tables import tasks
from memdump.tables.schema import DETAIL, Address, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel
    from memdump.kernel.paths import Path

LONGEST_TITLE = 4096
"""``/proc/PID/cmdline`` shows no more of a title that a process gave itself (``get_mm_proctitle``)."""
PSEUDO_TERMINAL = re.compile(r"pts(\d+)")
QUOTED = re.compile(r"[\s'\"\\]|^$")
"""What would not be one argument again if it were split as a shell does."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process: a thread group that ran when the image was taken, or whose exit nobody had noticed yet."""

    pid: Annotated[int, "Process id in the initial pid namespace"]
    ppid: Annotated[int | None, "Process id of the parent; 0 for none"]
    name: Annotated[str, "Name that the process goes by (at most 15 bytes), as /proc/PID/comm shows it"]
    command_line: Annotated[
        str | None,
        "Arguments, joined by spaces and quoted where a shell would need it, unless there is but one; "
        "null for kernel threads and what has exited",
    ]
    executable: Annotated[
        str | None, "Path of the program; null for kernel threads and what has exited", DETAIL
    ]
    uid: Annotated[int | None, "Real user id"]
    gid: Annotated[int | None, "Real group id", DETAIL]
    euid: Annotated[int | None, "Effective user id", DETAIL]
    start_time: Annotated[datetime | None, "When it was started"]
    state: Annotated[
        str | None,
        "R running, S sleeping, D uninterruptible, T stopped, t traced, Z zombie, X dead, P parked, I idle",
    ]
    kernel_thread: Annotated[bool, "Whether it runs in the kernel alone", DETAIL]
    tty: Annotated[str | None, "Its controlling terminal, as ps shows it: pts/0, ttyS0, tty1"]
    session: Annotated[int | None, "Session id: the pid of the process that leads it", DETAIL]
    cgroup: Annotated[
        str | None,
        "Path of its cgroup, version 2; where that is the root, the most telling one of version 1",
        DETAIL,
    ]
    container_id: Annotated[str | None, "Id of the container that the cgroup's path names", DETAIL]
    pid_namespace: Annotated[int | None, "Inode number of its pid namespace", DETAIL]
    deleted_executable: Annotated[
        bool | None, "Whether the program's file was removed; null if there is none"
    ]
    address: Annotated[Address, "Address of its task_struct", DETAIL]


@table(Process)
def processes(kernel: Kernel) -> Iterator[Process]:
    """Yield one row per thread group, by pid; a pid that occurs twice in memory has two rows."""
    reader = _Reader(kernel)
    for task in tasks.processes(kernel, "processes"):
        with kernel.problems.skipping("processes", f"process {task.pid} at {task.address:#x}"):
            yield reader.row(task)


class _Reader:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.clocks: Clocks = read_clocks(kernel)
        self.cgroups = kernel.problems.reading("processes", "cgroups", Cgroups, kernel)
        self.session_leader = kernel.program["PIDTYPE_SID"].value_()

    def row(self, task: tasks.Task) -> Process:
        place = f"process {task.pid} ({task.name})"

        def reading(what: str, read: Any, *arguments: Any) -> Any:
            return self.kernel.problems.reading("processes", f"{what} of {place}", read, *arguments)

        struct = task.struct
        mm = task.mm
        program: Path | None = mm and reading("executable", self._executable, mm)
        group = reading("cgroup", self._cgroup, struct)
        uid, gid, euid = reading("credentials", _credentials, struct) or (None, None, None)
        return Process(
            pid=task.pid,
            ppid=reading("parent", _parent, struct),
            name=task.name,
            command_line=mm and reading("command line", command_line, self.kernel, mm, place),
            executable=program.text if program else None,
            uid=uid,
            gid=gid,
            euid=euid,
            start_time=self.clocks.from_boottime(tasks.started(struct)),
            state=tasks.state(struct),
            kernel_thread=task.is_kernel_thread,
            tty=reading("terminal", _terminal, struct),
            session=reading("session", self._session, struct),
            cgroup=group,
            container_id=container_id(group) if group else None,
            pid_namespace=reading("pid namespace", _pid_namespace, struct),
            deleted_executable=program.deleted if program else None,
            address=task.address,
        )

    def _executable(self, mm: Any) -> Path | None:
        return self.kernel.paths.of(mm.exe_file.f_path) if mm.exe_file else None

    def _cgroup(self, struct: Any) -> str | None:
        return self.cgroups.path(struct.cgroups) if self.cgroups and struct.cgroups else None

    def _session(self, struct: Any) -> int | None:
        leader = struct.signal.pids[self.session_leader]
        return int(leader.numbers[0].nr) if leader else None


def _parent(struct: Any) -> int:
    return int(struct.real_parent.tgid)


def _credentials(struct: Any) -> tuple[int, int, int]:
    """What others see of it (``real_cred``), as in ``/proc/PID/status``: user, group, effective user."""
    cred = struct.real_cred
    return cred.uid.val.value_(), cred.gid.val.value_(), cred.euid.val.value_()


def _terminal(struct: Any) -> str | None:
    """The name below ``/dev``: the kernel calls a terminal ``pts0`` that has its file in a folder ``pts``."""
    tty = struct.signal.tty
    if not tty:
        return None
    name = decode(tty.name.string_())
    slave = PSEUDO_TERMINAL.fullmatch(name)
    return f"pts/{slave[1]}" if slave else name


def _pid_namespace(struct: Any) -> int | None:
    """``task_active_pid_ns``: the innermost namespace that its pid has a number in."""
    pid = struct.thread_pid
    return int(pid.numbers[pid.level].ns.ns.inum) if pid else None


def command_line(kernel: Kernel, mm: Any, place: str) -> str | None:
    """The arguments for people to read, and yet to be split again: see the column.

    Empty arguments at the end are left out, since a process that overwrites its arguments leaves them behind.
    """
    data = _arguments(kernel, mm, place)
    if data is None:
        return None
    arguments = [decode(argument) for argument in data.rstrip(b"\0").split(b"\0")]
    return arguments[0] if len(arguments) == 1 else " ".join(map(_quoted, arguments))


def _quoted(argument: str) -> str:
    return "'" + argument.replace("'", "'\"'\"'") + "'" if QUOTED.search(argument) else argument


def _arguments(kernel: Kernel, mm: Any, place: str) -> bytes | None:
    """What ``/proc/PID/cmdline`` gives (``get_mm_cmdline`` of ``fs/proc/base.c``).

    A process that overwrites the last byte of its arguments has given itself a title, which may run on into
    the environment.
    """
    mm = mm.read_()[0]
    start, end = mm.arg_start.value_(), mm.arg_end.value_()
    environment, environment_end = mm.env_start.value_(), mm.env_end.value_()
    if not start < end:
        return b""
    size = min(end - start, tasks.LONGEST_ARGUMENTS)
    place = f"command line of {place}"
    data = tasks.read_user(kernel, mm, start, size, "processes", place)
    if not data:
        return None
    if len(data) < size or data.endswith(b"\0"):
        return data
    if environment == end and environment_end > end:
        size = min(environment_end - start, LONGEST_TITLE)
        data = tasks.read_user(kernel, mm, start, size, "processes", place)
    return data[:LONGEST_TITLE].partition(b"\0")[0]
