"""Which processes are taken together: those that are named, and those that belong to a group."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from memdump.errors import UsageError
from memdump.machine.host import printable
from memdump.process import proc, refusal, safety, target
from memdump.process.capture import Gone
from memdump.process.guardian import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memdump.process.capture import Wanted
    from memdump.process.selection import Choice
    from memdump.process.target import Target

    Belongs = Callable[[int], bool]
    """Tells whether a process belongs to a group; False for one that is no more."""

_MONITOR = re.compile(r"\w+-conmon-|lxc\.monitor\b")
"""Cgroups that are named after a container, and hold what looks after it."""
_SHOWN = 5


class Members:
    """The processes of a set; those of its groups may come and go until all of them stand."""

    def __init__(
        self,
        named: Sequence[int],
        groups: Sequence[Belongs],
        asked: str | None,
        choose: Callable[[Target], Choice],
    ) -> None:
        self.gone: list[int] = []
        """Those that were named, and are no more."""
        self._named = list(dict.fromkeys(named))
        self._groups = groups
        self._asked = asked
        self._choose = choose
        self._known = {*self._named, os.getpid()}
        """Those that are in the set already, or never will be."""
        self._seen: set[int] = set()
        self._company = safety.Company(self._named)

    def survey(self) -> list[Target]:
        """Look at all there are now, as `target.survey` does; those that have ended are left out.

        Raises why the first one is missing if none is left.
        """
        missing: list[UsageError | Gone] = []
        found = []
        # The needs of all have to be known before the first one is looked at.
        others = self.find(everywhere=True).pids
        for pid in (*self._named, *others):
            try:
                found.append(target.survey(pid, self._asked, self._company))
            except (refusal.Missing, Gone) as error:
                missing.append(error)
                self.gone += [pid] if pid in self._named else []
        if not found:
            raise missing[0] if missing else Gone("all of them have ended")
        return found

    def find(self, *, everywhere: bool) -> Found:
        """Look for those that belong to the groups, and were not given before.

        Only processes that were begun since the last time are looked at, unless ``everywhere`` is said.
        """
        self._known.add(os.getpid())  # the guardian asks, too
        pids = proc.all_pids() if self._groups else []
        new, settled = [], True
        for pid in pids:
            seen = pid in self._seen
            if pid in self._known or (seen and not everywhere):
                continue
            if any(belongs(pid) for belongs in self._groups):
                new.append(pid)
            elif not seen and _has_ended(pid):
                settled = False
        self._seen.update(pids)
        self._known.update(new)
        for pid in new:
            self._company.include(pid)
        return Found(new, settled)

    def look(self, pid: int, *, stands: bool) -> tuple[Target, Wanted]:
        """Look at one that was found; ``stands`` if the guardian has stopped it already.

        Raises what `target.survey` raises.
        """
        found = (target.look if stands else target.survey)(pid, self._asked, self._company)
        return found, found.wanted(self._choose(found))


def by_name(name: str) -> Belongs:
    """Give the group of processes of that name (``comm``, or the last part of the executable's path).

    Raises `UsageError` where there is none.
    """

    def belongs(pid: int) -> bool:
        path = target.executable(pid) or ""
        return name in (proc.comm(pid), os.path.basename(path)) and _can_be_taken(pid)  # noqa: PTH119

    own = os.getpid()
    if not any(belongs(pid) for pid in proc.all_pids() if pid != own):
        raise UsageError(f"there is no process called {name!r}")
    return belongs


def by_container(wanted: str) -> Belongs:
    """Give the group of the processes in the cgroup with a container's id, or its beginning, in its name.

    Raises `UsageError` where there is none, or may be several.
    """
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
    largest = max(found, key=lambda path: len(found[path]))
    if not all(pids <= found[largest] for pids in found.values()):
        some = ", ".join(map(printable, sorted(found)[:_SHOWN]))
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise UsageError(f"{wanted!r} may be one of several cgroups, write more of it: {some}{more}")
    return lambda pid: largest in _cgroups(pid) and _can_be_taken(pid)


def _has_ended(pid: int) -> bool:
    try:
        return refusal.has_ended(pid)
    except OSError:
        return True


def _can_be_taken(pid: int) -> bool:
    """Whether a process that was looked for, not named, is worth a refusal.

    No zombie is, nor what another run of memdump holds: a copy of a process, in its cgroup and of its name.
    """
    try:
        return not refusal.has_ended(pid) and not refusal.is_copy(pid)
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
