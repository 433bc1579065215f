"""Why the kernel runs no BPF program of ours, and what would change that."""

import errno
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple, Optional, Tuple

from memdump.machine import bpf, lockdown

_SYS_ADMIN, _PERFMON, _BPF = 21, 38, 39
"""Numbers of capabilities (``include/uapi/linux/capability.h``)."""
_STATISTICS = re.compile(r"(processed|verification time|stack depth) ")
"""What the verifier ends with, below what it has to say."""


class Process(NamedTuple):
    """What is known of this process and its kernel."""

    release: str
    locked: bool
    """Whether the kernel is locked down to confidentiality."""
    capabilities: Optional[int]
    """A bit each; None where they are not to be learnt."""
    limited: bool
    """Whether less memory can be locked than our maps take."""


def explain(error: OSError) -> str:
    """Say in a line why a call of bpf(2) failed; under MEMDUMP_DEBUG=1 the verifier's words go to stderr."""
    log = error.log if isinstance(error, bpf.Refused) else ""
    if os.environ.get("MEMDUMP_DEBUG") and log:
        sys.stderr.write(f"{log}\n")
    return f"the kernel runs no program of ours: {reason(error, this_process(), log)}"


def reason(error: OSError, process: Process, log: str = "") -> str:
    """Choose among the known reasons, the certain ones first."""
    if error.errno == errno.ENOSYS:
        return "it is built without bpf(2) (CONFIG_BPF_SYSCALL)"
    if process.locked:
        return "it is locked down (confidentiality); take the memory from the hypervisor instead"
    if process.capabilities is not None and not _capable(process.capabilities):
        return "run as root (sudo) on the host itself, or grant CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN"
    if _version(process.release) < (5, 10):
        return f"Linux 5.10 or later does, and this is {process.release}"
    if error.errno in (errno.EPERM, errno.EACCES):
        if process.limited and _version(process.release) < (5, 11):
            return "the limit of locked memory is too low; raise it (ulimit -l unlimited)"
        return "it has the capabilities, so a container or a security module forbids it: run on the host"
    said = next((line for line in reversed(log.splitlines()) if line and not _STATISTICS.match(line)), "")
    return f"{error.strerror}{f' ({said})' if said else ''}; MEMDUMP_DEBUG=1 shows what its verifier says"


def _capable(capabilities: int) -> bool:
    def has(number: int) -> bool:
        return bool(capabilities >> number & 1)

    return has(_SYS_ADMIN) or (has(_BPF) and has(_PERFMON))


def _version(release: str) -> Tuple[int, int]:
    found = re.match(r"([0-9]+)\.([0-9]+)", release)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def this_process(status: str = "/proc/self/status") -> Process:
    """Ask the kernel."""
    try:
        text = Path(status).read_text("ascii", "replace")
    except OSError:
        text = ""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", text, re.MULTILINE)
    return Process(
        release=os.uname().release,
        locked=lockdown.level() == "confidentiality",
        capabilities=int(found.group(1), 16) if found else None,
        limited=not bpf.lift_memory_limit(),
    )
