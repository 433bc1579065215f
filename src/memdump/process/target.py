"""A process that is to be taken: what is asked of it before it is touched."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from memdump.machine.host import printable
from memdump.process import maps, proc, refusal, safety
from memdump.process.capture import FORK, FREEZE, PRECOPY, Gone, Wanted
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
    """Why it stands while it is read."""
    lendable: bool
    """Whether a thread of it may be lent."""
    no_copy: str | None
    """Why no copy may be made of it, of one that is copied beforehand."""
    early: tuple[tuple[int, int], ...]
    """Mappings that a copy would not hold."""
    own_filter: int
    """The bits by which the kernel would choose (``/proc/PID/coredump_filter``)."""

    def wanted(self, choice: Choice) -> Wanted:
        """Say what the guardian is to do."""
        return Wanted(self.pid, self.mode, self.early, "shared" not in choice.skip, self.no_copy)

    @property
    def beforehand(self) -> Target:
        """The same, copied while it runs; where that fails, the mode becomes the one that it was before."""
        return self._replace(mode=PRECOPY, reason=None, no_copy=self.reason)

    @property
    def resident(self) -> int:
        """Bytes in memory and in swap, about."""
        return sum(found.resident for found in self.details.values())


def survey(pid: int, asked: str | None, company: safety.Company | None = None) -> Target:
    """Look at a process without touching it, alone or with others; raises what `refusal.check` raises."""
    refusal.check(pid)
    return look(pid, asked, company)


def look(pid: int, asked: str | None, company: safety.Company | None = None) -> Target:
    """Look at a process that may be taken, as `survey` does; raises `Gone` or `NotPermitted`."""
    try:
        at = proc.living(pid)
        details = maps.parse_details(proc.read(at, "smaps"))
        lending = safety.reason_against_lending(pid, details)
        reason = None
        if asked in (None, FORK, PRECOPY):
            reason = lending or safety.reason_against_copy(pid, company)
        status = proc.status(pid)
        command_line = proc.read(at, "cmdline")
        bits = int(proc.read(at, "coredump_filter") or b"0", 16)
    except PermissionError:
        raise refusal.not_permitted(pid) from None
    except OSError:
        raise Gone(f"process {pid} has ended meanwhile") from None
    return Target(
        pid=pid,
        name=proc.comm(pid),
        executable=executable(at),
        owner=Owner(status.number("Uid"), status.number("Gid"), command_line),
        details=details,
        asked=asked,
        mode=FREEZE if reason else FORK if asked in (None, PRECOPY) else asked,
        reason=reason,
        lendable=lending is None,
        no_copy=None,
        early=tuple(
            key for key, one in details.items() if one.flags & _NOT_IN_A_COPY and not one.flags & _DEVICES
        ),
        own_filter=bits,
    )


def executable(pid: int) -> str | None:
    """Give the path of what a process executes, as far as it can be told."""
    try:
        return printable(os.readlink(f"/proc/{pid}/exe"))  # noqa: PTH115
    except OSError:
        return None
