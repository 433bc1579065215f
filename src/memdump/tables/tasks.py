"""The tasks of a kernel, found so that no torn structure and no list that was tampered with hides them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import drgn

from memdump.kernel import xarray
from memdump.kernel.kthreads import PF_KTHREAD, KernelThreads
from memdump.kernel.problems import LONGEST_WALK, SMEAR
from memdump.kernel.text import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel

LARGEST_PID = 1 << 22
"""``PID_MAX_LIMIT`` of ``include/linux/threads.h`` on 64-bit systems."""
STATES = "RSDTtXZPI"
"""The letters of ``/proc/PID/stat``: for no bit, for each bit of ``TASK_REPORT``, and for idle."""
TASK_UNINTERRUPTIBLE, TASK_REPORT, TASK_IDLE, TASK_RTLOCK_WAIT, TASK_FROZEN = 2, 0x7F, 0x402, 0x1000, 0x8000
LONGEST_ARGUMENTS = 6 << 20
"""``execve`` allows no more for arguments and environment together (``bprm_stack_limits``, ``fs/exec.c``)."""
PAGE = 4096


@dataclass(frozen=True, slots=True)
class Task:
    """A task: a thread, and with ``pid == group`` the one that leads a process."""

    address: int
    """Of its ``struct task_struct``."""
    pid: int
    """What ``gettid`` gives in the initial pid namespace."""
    group: int
    """The thread group's id, which is the pid of the process."""
    name: str
    """As ``/proc`` shows it: for a kernel thread also what its 15 bytes of ``comm`` cut off."""
    struct: Any
    """The ``struct task_struct``, read as a whole where that was possible."""
    alive: Any
    """The same, but of another thread of the process if this one has exited: it has the memory and files."""

    @property
    def is_kernel_thread(self) -> bool:
        """Whether it runs in the kernel alone."""
        return bool(self.struct.flags.value_() & PF_KTHREAD)

    @property
    def mm(self) -> Any | None:
        """Its ``struct mm_struct *``; None for kernel threads and for what has exited."""
        return None if self.is_kernel_thread or not self.alive.mm else self.alive.mm


def all_tasks(kernel: Kernel, table: str) -> Iterator[Task]:
    """Yield every task but the idle ones, process by process, the leading thread of each first."""
    found = []
    reader = _Reader(kernel, table)
    for address in _addresses(kernel, table):
        with kernel.problems.skipping(table, f"task {address:#x}"):
            found.append(reader.read(address))
    yield from sorted(found, key=lambda task: (task.group, task.pid != task.group, task.pid, task.address))


def processes(kernel: Kernel, table: str) -> Iterator[Task]:
    """Yield the leading thread of every process, by pid; another of its threads where that one is not there.

    One pid can occur twice in a smeared memory: then both are yielded.  A first thread may have exited before
    the others, after which ``/proc`` shows neither memory nor files of the process; here it does have them.
    """
    for group, tasks in groupby(all_tasks(kernel, table), key=lambda task: task.group):
        first, *others = tasks
        if others and not first.struct.mm:
            alive = next((task.struct for task in others if task.struct.mm), first.struct)
            first = replace(first, alive=alive)
        yield first
        yield from (task for task in others if task.pid == group)


def state(struct: Any) -> str:
    """The letter of its state, as ``__task_state_index`` of ``include/linux/sched.h`` finds it."""
    # task_struct.state became __state in Linux 5.14.
    now = (struct.__state if hasattr(struct, "__state") else struct.state).value_()
    if now & TASK_IDLE == TASK_IDLE:
        return STATES[-1]
    if now & (TASK_RTLOCK_WAIT | TASK_FROZEN):
        now = TASK_UNINTERRUPTIBLE
    return STATES[((now | struct.exit_state.value_()) & TASK_REPORT).bit_length()]


def started(struct: Any) -> int:
    """When it was started, in nanoseconds of CLOCK_BOOTTIME."""
    # real_start_time became start_boottime in Linux 5.5.
    found = getattr(struct, "start_boottime", None)
    return int(struct.real_start_time if found is None else found)


def read_user(kernel: Kernel, mm: Any, address: int, size: int, table: str, place: str) -> bytes:
    """The memory of a process; cut off, and noted, at the first page that is not in the image."""
    try:
        return _read_remote(mm, address, size)
    except SMEAR as error:
        kernel.problems.add(table, place, error)
    data = b""
    while len(data) < size:
        part = min(size - len(data), PAGE - (address + len(data)) % PAGE)
        try:
            data += _read_remote(mm, address + len(data), part)
        except SMEAR:
            break
    return data


def _read_remote(mm: Any, address: int, size: int) -> bytes:
    from drgn.helpers.linux.mm import access_remote_vm

    return access_remote_vm(mm, address, size)


class _Reader:
    """Reads tasks at known addresses."""

    def __init__(self, kernel: Kernel, table: str) -> None:
        self._program = kernel.program
        self._type = self._program.type("struct task_struct")
        self._names = kernel.problems.reading(table, "kernel threads", KernelThreads, kernel)

    def read(self, address: int) -> Task:
        """Raises what a torn structure raises."""
        reference = drgn.Object(self._program, self._type, address=address)
        try:
            struct = reference.read_()
        except drgn.FaultError:
            struct = reference
        pid, group = struct.pid.value_(), struct.tgid.value_()
        if not (0 < pid <= LARGEST_PID and 0 < group <= LARGEST_PID):
            raise ValueError(f"torn or not a task: its pid is {pid}, its thread group {group}")
        return Task(address, pid, group, self._name(struct), struct, struct)

    def _name(self, struct: Any) -> str:
        if self._names and struct.flags.value_() & PF_KTHREAD:
            with contextlib.suppress(*SMEAR):
                return self._names.name(struct)
        return decode(struct.comm.string_())


def _addresses(kernel: Kernel, table: str) -> dict[int, None]:
    """Addresses of every ``task_struct``: those that have a pid, and those in the list of all processes.

    The two say the same of a healthy kernel; a task that someone took out of one is found by the other.
    """
    found: dict[int, None] = {}
    for ways in (_by_pid, _by_list):
        with kernel.problems.skipping(table, "the list of all tasks"):
            found |= dict.fromkeys(ways(kernel, table))
    return found


def _by_pid(kernel: Kernel, table: str) -> Iterator[int]:
    """Tasks that a ``struct pid`` of the initial namespace leads to."""
    program = kernel.program
    first_task = drgn.offsetof(program.type("struct pid"), "tasks")  # of PIDTYPE_PID, which is 0
    link = drgn.offsetof(program.type("struct task_struct"), "pid_links")
    for _, pid in xarray.entries_of(program["init_pid_ns"].idr.idr_rt, kernel.problems, table):
        with kernel.problems.skipping(table, f"pid {pid:#x}"):
            node = program.read_u64(pid + first_task)
            if node:
                yield node - link


def _by_list(kernel: Kernel, table: str) -> Iterator[int]:
    """Processes that follow ``init_task`` in ``tasks``, each with its threads."""
    program = kernel.program
    kind = program.type("struct task_struct")
    tasks, thread, signal = (drgn.offsetof(kind, name) for name in ("tasks", "thread_node", "signal"))
    head = drgn.offsetof(program.type("struct signal_struct"), "thread_head")
    idle = kernel.symbols.address_of("init_task")
    if idle is None:
        raise LookupError("init_task is not among the symbols")
    for leader in _list(kernel, table, idle + tasks):
        yield leader - tasks
        with kernel.problems.skipping(table, f"threads of task {leader - tasks:#x}"):
            for link in _list(kernel, table, program.read_u64(leader - tasks + signal) + head):
                yield link - thread


def _list(kernel: Kernel, table: str, head: int) -> Iterator[int]:
    """The nodes of a ``struct list_head``; a list that faults or runs into itself is noted and ends there."""
    seen: set[int] = set()
    place = f"list {head:#x}"
    with kernel.problems.skipping(table, place):
        node = kernel.program.read_u64(head)
        while node != head:
            if node in seen or len(seen) >= LONGEST_WALK:
                raise ValueError(f"it runs into itself at {node:#x}")
            seen.add(node)
            yield node
            node = kernel.program.read_u64(node)
