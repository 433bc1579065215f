"""A process that is to be taken: what is asked of it before it is touched."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import UsageError
from memdump.machine.host import printable
from memdump.process import maps, proc, refusal, safety
from memdump.process.capture import FORK, FREEZE, Gone, Wanted
from memdump.process.notes import Owner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdump.process.maps import Details
    from memdump.process.selection import Choice

_NOT_IN_A_COPY = frozenset({"dc", "wf"})
_DEVICES = frozenset({"io", "pf"})
_MONITOR = re.compile(r"\w+-conmon-|lxc\.monitor\b")
"""Cgroups that are named after a container, and hold what looks after it."""
_SHOWN = 5


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


def survey_all(pids: Sequence[int], asked: str | None) -> list[Target]:
    """Look at processes that are to be taken at one instant, as `survey` does."""
    company = safety.Company(pids)
    return [survey(pid, asked, company) for pid in pids]


def survey(pid: int, asked: str | None, company: safety.Company | None = None) -> Target:
    """Look at a process without touching it, alone or with others; raises what `refusal.check` raises."""
    refusal.check(pid)
    try:
        details = maps.parse_details(proc.read(pid, "smaps"))
        reason = safety.reason_against(pid, details, company) if asked in (None, FORK) else None
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
        if name in (proc.comm(pid), os.path.basename(_executable(pid) or "")) and _can_be_taken(pid)  # noqa: PTH119
    ]
    if not found:
        raise UsageError(f"there is no process called {name!r}")
    return found


def by_container(wanted: str) -> list[int]:
    """Give the processes in the cgroup with the id of a container, or its beginning, in its name."""
    exactly: dict[str, set[int]] = {}
    beginning: dict[str, set[int]] = {}
    for pid in filter(_can_be_taken, proc.all_pids()):
        for path in _cgroups(pid):
            step = path.rpartition("/")[2]
            names = _names(step)
            if step == wanted or wanted in names:
                exactly.setdefault(path, set()).add(pid)
            elif any(name.startswith(wanted) for name in names):
                beginning.setdefault(path, set()).add(pid)
    found = exactly or beginning
    if not found:
        raise UsageError(f"there is no process in a cgroup called {wanted!r}")
    # A cgroup inside of another one that fits, or the same one in several hierarchies, is in the largest.
    largest = max(found.values(), key=len)
    if not all(pids <= largest for pids in found.values()):
        some = ", ".join(map(printable, sorted(found)[:_SHOWN]))
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise UsageError(f"{wanted!r} may be one of several cgroups, write more of it: {some}{more}")
    return sorted(largest)


def _can_be_taken(pid: int) -> bool:
    """Whether a process that was looked for, not named, is worth a refusal: no zombie is, nor memdump."""
    try:
        return pid != os.getpid() and not refusal.has_ended(pid)
    except OSError:
        return False


def _cgroups(pid: int) -> set[str]:
    """Give the paths of the cgroup that a process is in, and of those around it, of all hierarchies."""
    text = proc.read_or_nothing(pid, "cgroup").decode("utf-8", "surrogateescape")
    paths = set()
    for line in text.splitlines():
        path = line.split(":", 2)[-1].rstrip("/")
        while path:
            paths.add(path)
            path = path.rpartition("/")[0]
    return paths


def _names(step: str) -> list[str]:
    r"""Give what a cgroup may be called by: what follows any ``-``, ``.`` or ``@`` in its name, too.

    There is docker-0123abcd.scope, cri-containerd-0123abcd.scope, 0123abcd, lxc.payload.name,
    systemd-nspawn@name.service and machine-name.scope, where systemd writes ``-`` of a name as ``\x2d``.
    """
    if _MONITOR.match(step):
        return []
    whole = re.sub(r"\.(scope|service|slice)$", "", step)
    parts = re.split(r"(?<=[-.@])", whole)
    return ["".join(parts[index:]).replace("\\x2d", "-") for index in range(len(parts))]


def _executable(pid: int) -> str | None:
    try:
        return printable(os.readlink(f"/proc/{pid}/exe"))  # noqa: PTH115
    except OSError:
        return None
