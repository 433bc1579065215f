"""What makes a process stand out: facts that are worth a look, not verdicts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KTHREADD = 2
"""The pid of the kernel thread that is the parent of all others (``kernel/kthread.c``)."""
SHORTEST_STEM = 4


def stems(processes: Iterable[Any]) -> frozenset[str]:
    """The names of this image's kernel threads, without the processor and the purpose: ``kworker``."""
    return frozenset(_stem(process.name) for process in processes if process.kernel_thread)


def marks(process: Any, parents: Mapping[int, Any], kernel_names: frozenset[str]) -> list[str]:
    """Say what stands out about a process."""
    if process.kernel_thread:
        return []
    found = []
    executable = process.executable or ""
    if executable.startswith("/memfd:"):
        found.append("runs from a memfd")
    elif process.deleted_executable:
        found.append("deleted executable")
    if _looks_like_kernel_thread(process, kernel_names):
        found.append("looks like a kernel thread")
    parent = parents.get(process.ppid)
    if parent and parent.uid and not process.uid:
        found.append(f"root, started by uid {parent.uid}")
    elif process.euid != process.uid and process.euid is not None:
        found.append(f"acts as uid {process.euid}")
    return found


def _looks_like_kernel_thread(process: Any, kernel_names: frozenset[str]) -> bool:
    """Whether a process has a kernel thread's name or parent, or a command line as ps shows for them."""
    if process.ppid == KTHREADD:
        return True
    if re.match(r"\[[^]\s]+\](?!\S)", process.command_line or ""):
        return True
    stem = _stem(process.name)
    return len(stem) >= SHORTEST_STEM and stem in kernel_names


def _stem(name: str | None) -> str:
    return re.split("[/:]", name or "")[0].rstrip("0123456789")
