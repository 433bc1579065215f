"""A process that is to be taken: what is asked of it before it is touched."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import UsageError
from memdump.machine.host import printable
from memdump.process import maps, proc, refusal, safety
from memdump.process.capture import FORK, FREEZE, Gone, Wanted
from memdump.process.notes import Owner

if TYPE_CHECKING:
    from memdump.process.maps import Details
    from memdump.process.selection import Choice

_NOT_IN_A_COPY = frozenset({"dc", "wf"})
_DEVICES = frozenset({"io", "pf"})


class Target(NamedTuple):
    """What was found out about a process."""

    pid: int
    name: str
    executable: str | None
    owner: Owner
    details: dict[tuple[int, int], Details]
    asked: str | None
    """The mode that the user named."""
    mode: str
    """The mode that it comes to."""
    reason: str | None
    """Why not ``fork``."""
    early: tuple[tuple[int, int], ...]
    """Mappings that a copy would not hold."""

    def wanted(self, choice: Choice) -> Wanted:
        """Say what the guardian is to do."""
        return Wanted(self.pid, self.mode, self.early, "shared" not in choice.skip)

    @property
    def resident(self) -> int:
        """Bytes in memory and in swap, about."""
        return sum(found.resident for found in self.details.values())


def survey(pid: int, asked: str | None) -> Target:
    """Look at a process without touching it; raises what `refusal.check` raises."""
    refusal.check(pid)
    try:
        details = maps.parse_details(proc.read(pid, "smaps"))
        reason = safety.reason_against(pid, details) if asked in (None, FORK) else None
        status = proc.status(pid)
        command_line = proc.read(pid, "cmdline")
    except PermissionError:
        raise refusal.not_permitted(pid, proc.status(pid)) from None
    except OSError:
        raise Gone(f"process {pid} has ended meanwhile") from None
    return Target(
        pid=pid,
        name=proc.comm(pid),
        executable=_executable(pid),
        owner=Owner(status.number("Uid"), status.number("Gid"), command_line),
        details=details,
        asked=asked,
        mode=FREEZE if reason else asked or FORK,
        reason=reason,
        early=tuple(
            key for key, one in details.items() if one.flags & _NOT_IN_A_COPY and not one.flags & _DEVICES
        ),
    )


def own_filter(pid: int) -> int:
    """Give the bits by which the kernel would choose (``/proc/PID/coredump_filter``)."""
    try:
        return int(proc.read(pid, "coredump_filter"), 16)
    except (OSError, ValueError):
        raise Gone(f"process {pid} has ended meanwhile") from None


def by_name(name: str) -> list[int]:
    """Give the processes of that name (``comm``, or the last part of the executable's path)."""
    found = [
        pid
        for pid in proc.all_pids()
        if pid != os.getpid() and name in (proc.comm(pid), os.path.basename(_executable(pid) or ""))  # noqa: PTH119
    ]
    if not found:
        raise UsageError(f"there is no process called {name!r}")
    return found


def by_container(wanted: str) -> list[int]:
    """Give the processes in cgroups whose path holds the id of a container, or its beginning."""
    found = [pid for pid in proc.all_pids() if _in_container(pid, wanted)]
    if not found:
        raise UsageError(f"there is no process in a cgroup called {wanted!r}")
    return found


def _in_container(pid: int, wanted: str) -> bool:
    text = proc.read_or_nothing(pid, "cgroup").decode("utf-8", "surrogateescape")
    for line in text.splitlines():
        for step in line.split(":", 2)[-1].split("/"):
            # docker-0123abcd.scope, cri-containerd-0123abcd.scope, 0123abcd, lxc.payload.name
            if step and any(word.startswith(wanted) for word in (step, *step.replace(".", "-").split("-"))):
                return True
    return False


def _executable(pid: int) -> str | None:
    try:
        return printable(os.readlink(f"/proc/{pid}/exe"))  # noqa: PTH115
    except OSError:
        return None
