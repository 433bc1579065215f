"""What can be found without kallsyms: the first task, and what it leads to.

``init_task`` is the task called ``swapper/0`` in the kernel's data; its members point to the initial
namespaces.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from memdump.kernel.symbols import SymbolTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.btf import Btf
    from memdump.kernel.location import Location
    from memdump.kernel.vmcoreinfo import VmcoreInfo

FIRST_TASK = b"swapper/0\0"
NAMESPACES = {
    "init_uts_ns": "uts_ns",
    "init_ipc_ns": "ipc_ns",
    "init_pid_ns": "pid_ns_for_children",
    "init_net": "net_ns",
    "init_cgroup_ns": "cgroup_ns",
}
"""Global variable to the member of ``struct nsproxy`` that points to it."""


def find(data: bytes, location: Location, info: VmcoreInfo | None, btf: Btf | None) -> SymbolTable:
    """The symbols that VMCOREINFO names, and those that ``init_task`` leads to."""
    found: dict[str, int] = {}
    if info:
        for name in ("init_uts_ns", "mem_section", "swapper_pg_dir", "_stext", "prb", "clear_seq", "log_buf"):
            address = info.symbol(name)
            if address is not None:
                found[name] = address
    if btf:
        for task in _first_tasks(data, location, btf):
            found.update(task)
            break
    return SymbolTable.build(list(found.values()), [b"D" + name.encode() for name in found])


def _first_tasks(data: bytes, location: Location, btf: Btf) -> Iterator[dict[str, int]]:
    comm, nsproxy, tasks = (_offset(btf, "task_struct", name) for name in ("comm", "nsproxy", "tasks"))
    if comm is None or nsproxy is None or tasks is None:
        return
    at = data.find(FIRST_TASK, location.text_size)
    while at >= 0:
        start = at - comm
        pointers = _pointers(data, start + nsproxy) + _pointers(data, start + tasks) if start >= 0 else ()
        if len(pointers) == 2 and _inside(location, pointers[0]) and pointers[1] >= 1 << 63:
            proxy = pointers[0] - location.virtual
            members = {name: _offset(btf, "nsproxy", member) for name, member in NAMESPACES.items()}
            yield {
                "init_task": location.virtual + start,
                "init_nsproxy": pointers[0],
                **{
                    name: pointer
                    for name, offset in members.items()
                    if offset is not None
                    for pointer in _pointers(data, proxy + offset)
                    if _inside(location, pointer)
                },
            }
        at = data.find(FIRST_TASK, at + 1)


def _pointers(data: bytes, at: int) -> tuple[int, ...]:
    return struct.unpack_from("<Q", data, at) if 0 <= at <= len(data) - 8 else ()


def _inside(location: Location, address: int) -> bool:
    return 0 <= address - location.virtual < location.size


def _offset(btf: Btf, compound: str, member: str) -> int | None:
    """The offset of a member in bytes."""
    for _, found in btf.named(compound):
        if found.words:
            for name, _, offset, _ in btf.members(found):
                if name == member:
                    return offset // 8
    return None
