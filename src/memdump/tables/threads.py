"""The ``threads`` table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the types of columns are looked up
from typing import TYPE_CHECKING, Annotated, Any

from memdump.kernel.clocks import read_clocks
from memdump.tables import tasks
from memdump.tables.schema import DETAIL, Address, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread, the only or first one of a process too."""

    pid: Annotated[int, "Process id, which is the id of the thread group"]
    process: Annotated[str, "Name of the process"]
    tid: Annotated[int, "Thread id in the initial pid namespace"]
    name: Annotated[str, "Name of the thread, as /proc/PID/task/TID/comm shows it"]
    state: Annotated[str, "As in the table processes"]
    start_time: Annotated[datetime | None, "When it was started"]
    processor: Annotated[int | None, "CPU that it ran on last"]
    uid: Annotated[int | None, "Real user id: a thread can have its own"]
    kernel_thread: Annotated[bool, "Whether it runs in the kernel alone", DETAIL]
    address: Annotated[Address, "Address of its task_struct"]


@table(Thread)
def threads(kernel: Kernel) -> Iterator[Thread]:
    """Yield one row per thread, process by process."""
    clocks = read_clocks(kernel)
    process: tasks.Task | None = None
    for task in tasks.all_tasks(kernel, "threads"):
        if process is None or task.group != process.group:
            process = task
        place = f"thread {task.pid} ({task.name})"
        with kernel.problems.skipping("threads", place):
            yield Thread(
                pid=task.group,
                process=process.name,
                tid=task.pid,
                name=task.name,
                state=tasks.state(task.struct),
                start_time=clocks.from_boottime(tasks.started(task.struct)),
                processor=_processor(task.struct),
                uid=kernel.problems.reading("threads", f"credentials of {place}", _uid, task.struct),
                kernel_thread=task.is_kernel_thread,
                address=task.address,
            )


def _processor(struct: Any) -> int | None:
    """``task_cpu``: ``task_struct.cpu``, and from Linux 5.16 on ``thread_info.cpu``."""
    for holder in (struct, struct.thread_info):
        found = getattr(holder, "cpu", None)
        if found is not None:
            return int(found)
    return None


def _uid(struct: Any) -> int:
    return int(struct.real_cred.uid.val)
