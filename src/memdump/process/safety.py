"""Whether a process may safely be copied; where not, it is stopped while it is read."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memdump.process import proc

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Mapping as Dictionary

    from memdump.process.maps import Details

_CGROUPS = Path("/sys/fs/cgroup")
_NEVER_OVERCOMMIT = 2
_OWN_PROCESSES = 1
"""Beside the copies: what a process itself may want meanwhile."""
_WRITTEN_SHARE = 4
"""While it is read, a process writes to this part of its memory at most; so much exists twice then."""
_LEAST_ROOM = 32 << 20
_STRICT, _FILTER = 1, 2
_ELF_CLASS_64 = 2
_UNLIMITED = 1 << 62


class Need(NamedTuple):
    """What copies need."""

    processes: int = 0
    anonymous: int = 0
    """Bytes of private memory that are in use."""
    committed: int = 0
    """Bytes of private memory that may come into use."""

    def plus(self, other: Need) -> Need:
        """Add what other copies need."""
        return Need(*map(int.__add__, self, other))


class Company:
    """Processes that are copied at the same moment, and what they need together: each may have room alone."""

    def __init__(self, pids: Iterable[int]) -> None:
        """Look at the processes, of which some may have ended."""
        self._total = Need()
        self._by_user: dict[int, Need] = {}
        self._by_folder: dict[Path, Need] = {}
        for pid in pids:
            self.include(pid)

    def include(self, pid: int) -> None:
        """Add a process, which may have ended."""
        try:
            status = proc.status(proc.living(pid))
        except OSError:
            return
        private = status.number("VmData") + status.number("VmStk")
        one = Need(1, status.number("RssAnon") << 10, private << 10)
        uid = status.number("Uid")
        self._total = self._total.plus(one)
        self._by_user[uid] = self.of_user(uid).plus(one)
        for folder in {*_folders(pid, "pids"), *_folders(pid, "memory")}:
            self._by_folder[folder] = self.inside(folder).plus(one)

    @property
    def total(self) -> Need:
        """What all of them need."""
        return self._total

    def of_user(self, uid: int) -> Need:
        """Give what the processes of a user need."""
        return self._by_user.get(uid, Need())

    def inside(self, folder: Path) -> Need:
        """Give what the processes in a cgroup need, and in those inside of it."""
        return self._by_folder.get(folder, Need())


def reason_against_lending(pid: int, details: Dictionary[tuple[int, int], Details]) -> str | None:
    """Say why no thread of a process should be lent, or can be; None where nothing is against it.

    Raises ``OSError``.
    """
    return _filter(pid) or _bits(pid) or _stopped(pid, proc.status(pid)) or _faults(details)


def reason_against_copy(pid: int, company: Company | None = None) -> str | None:
    """Say why a process should not be copied, alone or with others, though a thread of it may be lent.

    Raises ``OSError``.
    """
    status, company = proc.status(pid), company or Company([pid])
    # The kernel refuses what it has no room for, too; but the last room may be what the process needs itself.
    return _processes(pid, status, company) or _commitment(company) or _memory(pid, company)


def _filter(pid: int) -> str | None:
    # A filter may be one thread's alone, and any of the threads may be the one that is borrowed.
    for tid in proc.threads(pid):
        try:
            mode = proc.status(tid).number("Seccomp")
        except OSError:  # this one has ended
            continue
        if mode in (_STRICT, _FILTER):
            return "it has a seccomp filter, which may kill it for making a copy of itself"
    return None


def _bits(pid: int) -> str | None:
    with open(f"/proc/{proc.living(pid)}/exe", "rb") as file:  # noqa: PTH123
        if file.read(5)[4:5] != bytes([_ELF_CLASS_64]):
            return "it is a 32-bit process"
    return None


def _stopped(pid: int, status: proc.Status) -> str | None:
    if is_frozen(pid):
        return "it is stopped already: its cgroup is frozen"
    return "it is stopped already" if status.state == "T" else None


def is_frozen(pid: int) -> bool:
    """Whether a process's cgroup is frozen, or is about to be: none of its threads executes anything then.

    Of the first version of cgroups (``freezer.state``) or the second, where threads seem to sleep.
    """
    for folder in _folders(pid, "freezer"):
        # Where the cgroups around it are not to be seen, events tell of them.
        if _number(folder / "cgroup.freeze") == 1 or "frozen 1" in _text(folder / "cgroup.events"):
            return True
        if _text(folder / "freezer.state").strip() in ("FREEZING", "FROZEN"):
            return True
    return False


def _faults(details: Dictionary[tuple[int, int], Details]) -> str | None:
    if any(found.provided for found in details.values()):
        return "some of its memory is provided by another program (userfaultfd)"
    return None


def _processes(pid: int, status: proc.Status, company: Company) -> str | None:
    uid = status.number("Uid")
    limit = _limit(pid, "Max processes")
    # The kernel does not count where root is concerned.
    if uid and limit < _UNLIMITED:
        needed = company.of_user(uid).processes + _OWN_PROCESSES
        if limit - _all_threads() < needed and limit - _threads_of(uid) < needed:
            return "it may not have another process (RLIMIT_NPROC)"
    for folder in _folders(pid, "pids"):
        most = _number(folder / "pids.max")
        needed = company.inside(folder).processes + _OWN_PROCESSES
        if most < _UNLIMITED and most - _number(folder / "pids.current") < needed:
            return "its cgroup may not have another process (pids.max)"
    return None


def _commitment(company: Company) -> str | None:
    """See whether the system promises no more memory than it has, and would have to promise more for this."""
    if _number(Path("/proc/sys/vm/overcommit_memory")) != _NEVER_OVERCOMMIT:
        return None
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE))
    room = int(found["CommitLimit"]) - int(found["Committed_AS"])
    if room << 10 < company.total.committed:
        return "the system does not commit its memory twice (vm.overcommit_memory is 2)"
    return None


def _memory(pid: int, company: Company) -> str | None:
    for folder in _folders(pid, "memory"):
        anonymous = company.inside(folder).anonymous
        # Where memory is short the copy is killed, but here all that is in the cgroup with it.
        alone = _number(folder / "memory.oom.group") != 1
        needed = max(anonymous // _WRITTEN_SHARE if alone else anonymous, _LEAST_ROOM)
        for limit, usage in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most = _number(folder / limit)
            used = _number(folder / usage) - _reclaimable(folder)
            if most < _UNLIMITED and most - used < needed:
                return f"its cgroup has little memory left ({max(most - used, 0) >> 20} MiB, {limit})"
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if found and int(found[1]) << 10 < max(company.total.anonymous // _WRITTEN_SHARE, _LEAST_ROOM):
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


def _all_threads() -> int:
    """Give how many threads there are, of all users: far fewer than a user may have, mostly."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])


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
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else _UNLIMITED


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
