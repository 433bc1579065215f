"""Keep keys and plaintext out of core dumps and out of swap, as far as the system lets us."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

PR_SET_DUMPABLE = 4
"""``linux/prctl.h``"""

MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
"""``asm-generic/mman.h``; ONFAULT, since Linux 4.4, locks a page when it is first touched, not before."""

CAP_IPC_LOCK = 14
"""``linux/capability.h``"""

SWAPS = Path("/proc/swaps")

locked = False
"""Whether what is mapped from now on is locked, too: see `let_go_of_files`."""


exposed: list[str] = []
"""What the system did not let us do while a key or a passphrase is in memory: commands say it, once."""


def hold_key() -> None:
    """Protect the process, as `protect_process` does, for a key that is in memory or is going to be."""
    exposed[:] = protect_process()


def protect_process() -> list[str]:
    """Forbid core dumps and debuggers of the same user, and lock memory where it can be locked without limit.

    With a limit it is left alone, since allocations would fail once that is reached; and where the system has
    no swap, since every page that is locked takes time.  Gives in words what the system did not let us do.
    Of all this, programs that are started later inherit the core size limit only.
    """
    global locked
    missing = []
    libc = _libc()
    if not hasattr(libc, "prctl") or libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        missing.append("debuggers of this user are not kept away")
    try:
        # The hard limit stays: programs that are started later may have to leave cores of their own.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (OSError, ValueError):
        missing.append("core dumps are not forbidden")
    if not _has_swap():
        return missing
    locked = _may_lock() and libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0
    if locked:
        let_go_of_files()
    else:
        missing.append("memory may be swapped: only root locks it, or a user with `ulimit -l unlimited`")
    return missing


def let_go_of_files() -> None:
    """Let the system drop the pages of files that are mapped to be read: a big image would fill the memory.

    `protect_process` does so with those that are mapped then; to be called when another one was mapped.
    """
    import ctypes

    libc = _libc()
    try:
        maps = Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return
    for line in maps.splitlines():
        where, rights, *_ = line.split()
        if rights == "r--s":
            start, end = (int(word, 16) for word in where.split("-"))
            libc.munlock(ctypes.c_void_p(start), ctypes.c_size_t(end - start))


def _has_swap() -> bool:
    """Whether memory can go to a disk: behind a line of titles stands one for each swap that is on."""
    try:
        return len(SWAPS.read_text(errors="replace").splitlines()) > 1
    except OSError:
        return True


def _may_lock() -> bool:
    """Whether there is no limit to what may be locked: none is set, or none counts for this user."""
    _, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if most == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
        return True
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    capabilities = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
    return any(int(word, 16) >> CAP_IPC_LOCK & 1 for word in capabilities)


def _libc() -> ctypes.CDLL:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)
