"""Whether a process may safely be copied; where not, it is stopped while it is read."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from memdump.process import proc

if TYPE_CHECKING:
    from collections.abc import Mapping as Dictionary

    from memdump.process.maps import Details

_CGROUPS = Path("/sys/fs/cgroup")
_NEVER_OVERCOMMIT = 2
_SPARE_PROCESSES = 2
"""The copy, and one that the process itself may want meanwhile."""
_WRITTEN_SHARE = 4
"""While it is read, a process writes to this part of its memory at most; so much exists twice then."""
_LEAST_ROOM = 32 << 20
_STRICT, _FILTER = 1, 2
_ELF_CLASS_64 = 2
_UNLIMITED = 1 << 62


def reason_against(pid: int, details: Dictionary[tuple[int, int], Details]) -> str | None:
    """Say why a process should not be copied; None where nothing is against it.  Raises ``OSError``."""
    status = proc.status(pid)
    # The kernel refuses what it has no room for, too; but the last room may be what the process needs itself.
    return (
        _filter(status)
        or _bits(pid)
        or _stopped(status)
        or _faults(details)
        or _processes(pid, status)
        or _commitment(status)
        or _memory(pid, status)
    )


def _filter(status: proc.Status) -> str | None:
    mode = status.number("Seccomp")
    if mode in (_STRICT, _FILTER):
        return "it has a seccomp filter, which may kill it for making a copy of itself"
    return None


def _bits(pid: int) -> str | None:
    with open(f"/proc/{pid}/exe", "rb") as file:  # noqa: PTH123
        if file.read(5)[4:5] != bytes([_ELF_CLASS_64]):
            return "it is a 32-bit process"
    return None


def _stopped(status: proc.Status) -> str | None:
    return "it is stopped already" if status.state == "T" else None


def _faults(details: Dictionary[tuple[int, int], Details]) -> str | None:
    if any({"um", "uw", "ui"} & found.flags for found in details.values()):
        return "some of its memory is provided by another program (userfaultfd)"
    return None


def _processes(pid: int, status: proc.Status) -> str | None:
    uid = status.number("Uid")
    limit = _limit(pid, "Max processes")
    # The kernel does not count where root is concerned.
    if uid and limit < _UNLIMITED and limit - _threads_of(uid) < _SPARE_PROCESSES:
        return "it may not have another process (RLIMIT_NPROC)"
    for folder in _folders(pid, "pids"):
        most = _number(folder / "pids.max")
        if most < _UNLIMITED and most - _number(folder / "pids.current") < _SPARE_PROCESSES:
            return "its cgroup may not have another process (pids.max)"
    return None


def _commitment(status: proc.Status) -> str | None:
    """See whether the system promises no more memory than it has, and would have to promise more for this."""
    if _number(Path("/proc/sys/vm/overcommit_memory")) != _NEVER_OVERCOMMIT:
        return None
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE))
    room = int(found["CommitLimit"]) - int(found["Committed_AS"])
    if room < status.number("VmData") + status.number("VmStk"):
        return "the system does not commit its memory twice (vm.overcommit_memory is 2)"
    return None


def _memory(pid: int, status: proc.Status) -> str | None:
    needed = max((status.number("RssAnon") << 10) // _WRITTEN_SHARE, _LEAST_ROOM)
    for folder in _folders(pid, "memory"):
        for limit, usage in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most = _number(folder / limit)
            used = _number(folder / usage) - _reclaimable(folder)
            if most < _UNLIMITED and most - used < needed:
                return f"its cgroup has little memory left ({max(most - used, 0) >> 20} MiB, {limit})"
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if found and int(found[1]) << 10 < needed:
        return f"the machine has little memory left ({int(found[1]) >> 10} MiB)"
    return None


def _reclaimable(folder: Path) -> int:
    """Give the bytes of files that a cgroup would give up first."""
    try:
        found = re.search(
            r"^(?:total_)?inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE
        )
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _folders(pid: int, controller: str) -> list[Path]:
    """Give the folders of a process's cgroup and of those around it, of both versions of cgroups."""
    folders = []
    for line in proc.read_or_nothing(pid, "cgroup").decode("utf-8", "surrogateescape").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUPS / controllers if controllers else _CGROUPS
        inside = root / path.strip("/")
        folders += [folder for folder in (inside, *inside.parents) if root in (folder, *folder.parents)]
    return folders


def _limit(pid: int, name: str) -> int:
    for line in proc.read_or_nothing(pid, "limits").decode("ascii", "replace").splitlines():
        if line.startswith(name):
            soft = line[len(name) :].split()[0]
            return int(soft) if soft.isdigit() else _UNLIMITED
    return _UNLIMITED


def _threads_of(uid: int) -> int:
    count = 0
    for pid in proc.all_pids():
        try:
            if os.stat(f"/proc/{pid}").st_uid == uid:  # noqa: PTH116
                count += len(proc.threads(pid))
        except OSError:
            continue
    return count


def _number(path: Path) -> int:
    """Read a number; without limit where the file says ``max``, or is not there."""
    try:
        text = path.read_text().strip()
    except OSError:
        return _UNLIMITED
    return int(text) if text.lstrip("-").isdigit() else _UNLIMITED
