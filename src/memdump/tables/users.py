"""The ``users`` table."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - the types of columns are looked up
from typing import TYPE_CHECKING, Annotated, Any

from memdump.kernel.clocks import read_clocks
from memdump.tables import tasks
from memdump.tables.schema import table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel

TABLE = "users"
MOST_GROUPS = 65536
"""``NGROUPS_MAX``: no process is in more supplementary groups."""


@dataclass(frozen=True, slots=True)
class User:
    """A user as whom a process ran, really or in effect; kernel threads are left out."""

    uid: Annotated[int, "User id"]
    processes: Annotated[int, "How many processes had this as their real user"]
    effective_processes: Annotated[int, "How many processes had this as their effective user"]
    groups: Annotated[str, "Ids of the groups that these processes were in, separated by commas"]
    first_pid: Annotated[int, "The lowest id of these processes"]
    first_process: Annotated[str, "Name of that process"]
    first_start_time: Annotated[datetime | None, "When the first of these processes was started"]


@dataclass(slots=True)
class _Seen:
    processes: int = 0
    effective: int = 0
    groups: set[int] = field(default_factory=set)
    names: dict[int, str] = field(default_factory=dict)
    first_start: int | None = None


@table(User)
def users(kernel: Kernel) -> Iterator[User]:
    """Yield the users by id."""
    seen: dict[int, _Seen] = {}
    for task in tasks.processes(kernel, TABLE):
        if not task.is_kernel_thread:
            with kernel.problems.skipping(TABLE, f"credentials of process {task.pid} ({task.name})"):
                _count(seen, task)
    clocks = read_clocks(kernel)
    for uid, user in sorted(seen.items()):
        first = min(user.names)
        yield User(
            uid=uid,
            processes=user.processes,
            effective_processes=user.effective,
            groups=",".join(map(str, sorted(user.groups))),
            first_pid=first,
            first_process=user.names[first],
            first_start_time=None if user.first_start is None else clocks.from_boottime(user.first_start),
        )


def _count(seen: dict[int, _Seen], task: tasks.Task) -> None:
    cred = task.struct.real_cred[0].read_()
    real, effective = cred.uid.val.value_(), cred.euid.val.value_()
    groups = {cred.gid.val.value_(), cred.egid.val.value_(), *_supplementary(cred.group_info)}
    for uid in {real, effective}:
        user = seen.setdefault(uid, _Seen())
        user.processes += uid == real
        user.effective += uid == effective
        user.groups |= groups
        user.names[task.pid] = task.name
        start = tasks.started(task.struct)
        user.first_start = start if user.first_start is None else min(user.first_start, start)


def _supplementary(info: Any) -> list[int]:
    """The groups in a ``struct group_info *`` of ``include/linux/cred.h``."""
    count = info.ngroups.value_()
    if not 0 <= count <= MOST_GROUPS:
        raise ValueError(f"torn: a process in {count} groups")
    return [info.gid[number].val.value_() for number in range(count)]
