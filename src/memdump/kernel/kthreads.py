"""The names of kernel threads, which are longer than the 15 bytes that a task has for its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import drgn

from memdump.kernel.fields import Fields
from memdump.kernel.text import decode, decode_name, string_at

if TYPE_CHECKING:
    from memdump.kernel.kernel import Kernel

PF_WQ_WORKER, PF_KTHREAD = 0x20, 0x200000
"""Bits of ``task_struct.flags``, the same since 4.18 (``include/linux/sched.h``)."""


class KernelThreads:
    """Names kernel threads as ``proc_task_name`` of ``fs/proc/array.c`` does."""

    def __init__(self, kernel: Kernel) -> None:
        self._program = program = kernel.program
        # Since Linux 5.17 task_struct.worker_private leads to the struct kthread, which has the whole name.
        task, kthread, worker = (
            program.type(name) for name in ("struct task_struct", "struct kthread", "struct worker")
        )
        self._link = "worker_private" if task.has_member("worker_private") else "set_child_tid"
        self._has_full_name = kthread.has_member("full_name")
        self._kthread = Fields(kthread, "data", *(["full_name"] if self._has_full_name else []))
        self._worker = Fields(worker, "pool", "current_work")
        self._description: int = drgn.offsetof(worker, "desc")
        self._description_size = drgn.sizeof(worker.member("desc").type)

    def name(self, task: Any) -> str:
        """The name, for a worker with what it does (+) or did last (-); raises what torn memory raises."""
        name = decode(task.comm.string_())
        kthread = getattr(task, self._link).value_()
        if not kthread:
            return name
        data, *full_name = self._kthread.read(self._program, kthread)
        works = bool(task.flags.value_() & PF_WQ_WORKER)
        if any(full_name):
            whole = decode(string_at(self._program, full_name[0]))
            # A worker's whole name is shown since Linux 6.10, when all begin like this; before, that of a
            # rescuer is the name of its workqueue, and it goes by what fits into its task.
            name = whole if whole.startswith("kworker/") or not works else name
        if works and data:
            pool, current_work = self._worker.read(self._program, data)
            doing = decode_name(self._program.read(data + self._description, self._description_size))
            if pool and doing:
                return f"{name}{'+' if current_work else '-'}{doing}"
        return name
