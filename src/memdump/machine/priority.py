"""Staying out of the way of what the machine is there for."""

import contextlib
import ctypes
import os

_SYSCALL_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
"""The numbers of ``ioprio_set`` (kernel, the tables of system calls of each architecture)."""
_WHO_PROCESS, _CLASS_IDLE = 1, 3 << 13
_LOW = 10
"""Not the lowest: on a machine whose processors are all busy that would be never, and the image a smear."""


def lower() -> None:
    """Run when nothing else wants the processor or the disk, and be the first to go when memory is short.

    What the system does not permit is left as it is: nothing here is worth failing for.
    """
    with contextlib.suppress(OSError):
        os.nice(_LOW)
    number = _SYSCALL_IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, _WHO_PROCESS, 0, _CLASS_IDLE)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")
