"""The ``capabilities`` table."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from memdump.kernel.problems import SMEAR
from memdump.tables import tasks
from memdump.tables.schema import DETAIL, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel

NAMES = (
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
)
"""By number: ``include/uapi/linux/capability.h``."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a capability, or would if it executed a program; kernel threads are left out.

    A set is a list of names without their CAP_, separated by commas; 'all' if it is all that the kernel has.
    """

    pid: Annotated[int, "Process id"]
    process: Annotated[str, "Name of the process"]
    uid: Annotated[int, "Real user id"]
    euid: Annotated[int, "Effective user id"]
    effective: Annotated[str, "Capabilities that it may use now"]
    permitted: Annotated[str, "Capabilities that it may make effective"]
    inheritable: Annotated[str, "Capabilities that programs whose file says so get from it", DETAIL]
    bounding: Annotated[str, "Capabilities that it and its children can ever gain from a file", DETAIL]
    ambient: Annotated[str, "Capabilities that any program it executes gets from it", DETAIL]
    user_namespace: Annotated[int | None, "Inode number of the user namespace in which it holds them"]


@table(Holder)
def capabilities(kernel: Kernel) -> Iterator[Holder]:
    """Yield the processes whose permitted, inheritable or ambient set is not empty."""
    everything = _all(kernel)
    for task in tasks.processes(kernel, "capabilities"):
        if task.is_kernel_thread:
            continue
        with kernel.problems.skipping("capabilities", f"process {task.pid} ({task.name})"):
            cred = task.struct.real_cred[0].read_()
            effective, permitted, inheritable, bounding, ambient = (
                _set(getattr(cred, f"cap_{kind}"))
                for kind in ("effective", "permitted", "inheritable", "bset", "ambient")
            )
            if permitted | inheritable | ambient:
                yield Holder(
                    pid=task.pid,
                    process=task.name,
                    uid=cred.uid.val.value_(),
                    euid=cred.euid.val.value_(),
                    effective=names(effective, everything),
                    permitted=names(permitted, everything),
                    inheritable=names(inheritable, everything),
                    bounding=names(bounding, everything),
                    ambient=names(ambient, everything),
                    user_namespace=kernel.problems.reading(
                        "capabilities", f"user namespace of process {task.pid}", _user_namespace, cred
                    ),
                )


def names(held: int, everything: int) -> str:
    """The capabilities whose bits are set, by name; one that has none yet, by number."""
    if held == everything:
        return "all"
    numbers = [number for number in range(held.bit_length()) if held >> number & 1]
    return ",".join(NAMES[number] if number < len(NAMES) else str(number) for number in numbers)


def _set(capabilities: Any) -> int:
    """A ``kernel_cap_t``: one number, which until Linux 6.3 was an array of two halves."""
    if hasattr(capabilities, "val"):
        return int(capabilities.val)
    low, high = capabilities.cap.value_()
    return int(low | high << 32)


def _user_namespace(cred: Any) -> int:
    return int(cred.user_ns.ns.inum)


def _all(kernel: Kernel) -> int:
    """The capabilities that the kernel knows: its variable ``cap_last_cap`` is the number of the last one."""
    last = len(NAMES) - 1
    address = kernel.symbols.address_of("cap_last_cap")
    if address is not None:
        try:
            (last,) = struct.unpack("<i", kernel.program.read(address, 4))
        except SMEAR as error:
            kernel.problems.add("capabilities", "cap_last_cap", error)
    return (2 << last % 64) - 1
