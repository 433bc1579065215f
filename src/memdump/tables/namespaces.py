"""The ``namespaces`` table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from drgn.helpers.linux.list import list_for_each_entry

from memdump.tables import tasks
from memdump.tables.schema import Address, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel

TABLE = "namespaces"
PROXIES = {
    "cgroup": ("cgroup_ns",),
    "ipc": ("ipc_ns",),
    "mnt": ("mnt_ns",),
    "net": ("net_ns",),
    "pid": ("pid_ns_for_children",),
    "time": ("time_ns", "time_ns_for_children"),
    "uts": ("uts_ns",),
}
"""Members of ``struct nsproxy`` (``include/linux/nsproxy.h``); ``time`` came with Linux 5.6."""
DEEPEST = 64
"""Namespaces of pids and users lie at most 32 deep in each other."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace that a process is in, would start its children in, or that one of those lies in.

    Network namespaces are listed even if no process is in them.
    """

    type: Annotated[str, "cgroup, ipc, mnt, net, pid, time, user or uts"]
    inode: Annotated[int, "Inode number, as in /proc/PID/ns"]
    is_initial: Annotated[bool, "Whether it is the one that the system started with"]
    processes: Annotated[int, "How many processes have a thread in it, kernel threads included"]
    first_pid: Annotated[int | None, "The lowest process id among them"]
    first_process: Annotated[str | None, "Name of that process"]
    address: Annotated[Address, "Address of its structure in the kernel"]


class _Seen:
    """The namespaces found so far."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.found: dict[tuple[str, int], tuple[int, dict[int, str]]] = {}
        """By type and address: the inode number, and the processes in it by pid."""

    def add(self, kind: str, namespace: Any, task: tasks.Task | None = None) -> bool:
        """Note a namespace, and a task in it; whether it is new and makes sense."""
        key = kind, namespace.value_()
        new = key not in self.found
        if new:
            with self._kernel.problems.skipping(TABLE, f"{kind} namespace {key[1]:#x}"):
                self.found[key] = namespace.ns.inum.value_(), {}
        if task is not None and key in self.found:
            self.found[key][1].setdefault(task.group, task.name)
        return new and key in self.found


@table(Namespace)
def namespaces(kernel: Kernel) -> Iterator[Namespace]:
    """Yield the namespaces by type, the initial one first, then by inode number."""
    seen = _Seen(kernel)
    for task in tasks.all_tasks(kernel, TABLE):
        with kernel.problems.skipping(TABLE, f"thread {task.pid} ({task.name})"):
            _of_task(seen, task)
    _all_networks(kernel, seen)
    initial = _initial(kernel)
    rows = [
        Namespace(
            type=kind,
            inode=inode,
            is_initial=initial.get(kind) == address,
            processes=len(inside),
            first_pid=min(inside, default=None),
            first_process=inside[min(inside)] if inside else None,
            address=address,
        )
        for (kind, address), (inode, inside) in seen.found.items()
    ]
    yield from sorted(rows, key=lambda row: (row.type, not row.is_initial, row.inode, row.address))


def _of_task(seen: _Seen, task: tasks.Task) -> None:
    """What ``/proc/PID/ns`` shows of it; a process that has exited keeps only those of pids and users."""
    proxy = task.struct.nsproxy
    if proxy:
        proxy = proxy[0].read_()
        for kind, members in PROXIES.items():
            for member in members:
                namespace = getattr(proxy, member, None)
                if namespace is not None and namespace:
                    # Its children start in those called for_children; the task itself is in another.
                    seen.add(kind, namespace, None if member.endswith("for_children") else task)
    pid = task.struct.thread_pid
    if pid:
        _nested(seen, "pid", pid.numbers[pid.level].ns, task)
    _nested(seen, "user", task.struct.real_cred.user_ns, task)


def _nested(seen: _Seen, kind: str, namespace: Any, task: tasks.Task) -> None:
    """A namespace, and those that it lies in."""
    inside: tasks.Task | None = task
    for _ in range(DEEPEST):
        if not namespace or not seen.add(kind, namespace, inside):
            return
        namespace, inside = namespace.parent, None


def _all_networks(kernel: Kernel, seen: _Seen) -> None:
    """Those in ``net_namespace_list``: a mount or an open file can keep one without a process."""
    with kernel.problems.skipping(TABLE, "net_namespace_list"):
        head = kernel.program["net_namespace_list"].address_of_()
        networks = list_for_each_entry("struct net", head, "list")
        for network in kernel.problems.walk(TABLE, "net_namespace_list", networks, 1 << 16):
            seen.add("net", network)


def _initial(kernel: Kernel) -> dict[str, int]:
    """The addresses of those that the first process began with."""
    found = {}
    program = kernel.program
    with kernel.problems.skipping(TABLE, "initial namespaces"):
        found["user"] = program["init_user_ns"].address_ or 0
        found["pid"] = program["init_pid_ns"].address_ or 0
        proxy = program["init_nsproxy"].read_()
        for kind, (member, *_) in PROXIES.items():
            if kind != "pid" and hasattr(proxy, member):
                found[kind] = getattr(proxy, member).value_()
    return found
