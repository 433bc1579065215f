"""Which processes cannot be taken, and why."""

from __future__ import annotations

import os
from pathlib import Path

from memdump.errors import MemdumpError, NotPermitted, UsageError
from memdump.process import proc

_KERNEL_THREAD = 0x200000
"""Among the flags of ``/proc/PID/stat`` (``PF_KTHREAD``, kernel, ``include/linux/sched.h``)."""
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_CAPABILITY = "root, or anybody with CAP_SYS_PTRACE, may"


class Missing(UsageError):
    """There is no such process, or no more."""


def check(pid: int) -> None:
    """Refuse what is no process, has no memory, or may not be read, with the reason."""
    try:
        stat, status = proc.stat(pid), proc.status(pid)
    except OSError:
        raise Missing(f"there is no process {pid}") from None
    leader = status.number("Tgid")
    if leader != pid:
        raise UsageError(f"{pid} is a thread of process {leader}: name that one")
    if pid == os.getpid():
        raise UsageError(f"process {pid} is memdump itself")
    if stat.flags & _KERNEL_THREAD:
        raise UsageError(
            f"process {pid} ({_name(stat)}) is a thread of the kernel and has no memory of its own:"
            " 'memdump acquire' takes the kernel's"
        )
    if stat.state in "ZX" and not _others_run(pid):
        raise Missing(f"process {pid} ({_name(stat)}) has ended (a zombie): its memory is gone")
    tracer = status.number("TracerPid")
    if tracer:
        raise traced(pid, tracer)
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        raise not_permitted(pid) from None
    except OSError as error:
        if not isinstance(error, (FileNotFoundError, ProcessLookupError)):
            raise MemdumpError(f"process {pid}: its memory cannot be opened: {error.strerror}") from None


def has_ended(pid: int) -> bool:
    """Whether a process is a zombie, all of it; raises ``OSError`` where it is not there at all."""
    return proc.stat(pid).state in "ZX" and not _others_run(pid)


def is_copy(pid: int) -> bool:
    """Whether a process is a copy that another run of memdump holds; raises ``OSError``.

    It is traced, and tells nobody when it ends.
    """
    return not proc.stat(pid).exit_signal and bool(proc.status(pid).number("TracerPid"))


def traced(pid: int, tracer: int) -> NotPermitted:
    """Say that another debugger is there already."""
    return NotPermitted(
        f"process {pid} is traced by process {tracer} ({proc.comm(tracer)}) already, and only one can trace"
        " it; end that one first"
    )


def not_permitted(pid: int) -> MemdumpError:
    """Say what keeps this user from a process, and what would permit it (``ptrace(2)``)."""
    try:
        owner, own = proc.status(pid).number("Uid"), os.geteuid()
    except OSError:
        return Missing(f"there is no process {pid}")
    if own == 0:
        return NotPermitted(
            f"process {pid}: not permitted to root here: CAP_SYS_PTRACE is missing, or a security module is"
            " against it (in a container: --cap-add SYS_PTRACE)"
        )
    if owner != own:
        return NotPermitted(
            f"process {pid} belongs to user {owner}, and memdump runs as {own}: that user, {_CAPABILITY}"
        )
    if _owner_of_files(pid) != own:
        return NotPermitted(
            f"process {pid} has forbidden to be dumped (PR_SET_DUMPABLE, or it was started set-user-id):"
            f" {_CAPABILITY}"
        )
    scope = _scope()
    if scope:
        return NotPermitted(
            f"process {pid}: kernel.yama.ptrace_scope is {scope}, which keeps users from their own processes:"
            f" {_CAPABILITY}{'' if scope < 3 else ' not either until the next boot'}, or set it to 0"
        )
    return NotPermitted(
        f"process {pid}: not permitted, by its capabilities or a security module: {_CAPABILITY}"
    )


def _name(stat: proc.Stat) -> str:
    return stat.comm.decode("utf-8", "backslashreplace")


def _others_run(pid: int) -> bool:
    for tid in proc.threads(pid):
        try:
            if proc.stat(tid).state not in "ZX":
                return True
        except (OSError, ValueError):
            continue
    return False


def _owner_of_files(pid: int) -> int:
    """Give the owner of ``/proc/PID``'s files, which is root for what must not be dumped."""
    try:
        return Path(f"/proc/{pid}/status").stat().st_uid
    except OSError:
        return -1


def _scope() -> int:
    try:
        return int(_YAMA.read_text())
    except (OSError, ValueError):
        return 0
