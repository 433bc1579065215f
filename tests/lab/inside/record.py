"""Write down what the guest's own kernel says of everything, for the tables to be compared with.

Text is kept as the kernel gave it, decoded as UTF-8 with ``surrogateescape``: no byte is lost in JSON.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.lab.inside import files

Truth = dict[str, Any]

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "user", "uts")
NET_FILES = (
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "raw",
    "raw6",
    "icmp",
    "unix",
    "packet",
    "netlink",
    "arp",
    "dev",
    "if_inet6",
)
SYSCTLS = [
    "kernel/hostname",
    "kernel/domainname",
    "kernel/ostype",
    "kernel/osrelease",
    "kernel/version",
    "kernel/tainted",
    "kernel/pid_max",
    "kernel/randomize_va_space",
    "kernel/random/boot_id",
    "kernel/modules_disabled",
    "kernel/ns_last_pid",
]


def text(path: str | Path) -> str | None:
    """A file of /proc as text, or None where it cannot be read."""
    try:
        return os.fsdecode(Path(path).read_bytes())
    except OSError:
        return None


def link(path: str | Path) -> str | None:
    """Where a link of /proc leads, or None."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def wait_until_quiet() -> None:
    """Return when no process has used the CPU or come or gone for a while."""
    before = None
    for _ in range(100):
        now = activity()
        if now == before:
            return
        before = now
        time.sleep(0.7)
    raise RuntimeError("the guest does not come to rest")


def activity() -> dict[int, tuple[str, ...]]:
    """For each process but this one and kernel threads: state, faults, time used, number of threads."""
    found: dict[int, tuple[str, ...]] = {}
    for pid in pids():
        fields = (text(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
        if fields and pid != os.getpid() and not int(fields[6]) & 0x200000:  # PF_KTHREAD
            found[pid] = (fields[0], fields[7], fields[11], fields[12], fields[17])
    return found


def pids() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def bulky(folder: Path) -> None:
    """Copy what is too long for the JSON: symbols, types, the kernel's log."""
    Path("/proc/sys/kernel/kptr_restrict").write_text("0")
    shutil.copyfile("/proc/kallsyms", folder / "kallsyms")
    (folder / "btf").mkdir()
    for path in Path("/sys/kernel/btf").iterdir():
        (folder / "btf" / path.name).write_bytes(path.read_bytes())


def machine() -> Truth:
    """What is true of the whole machine."""
    return {
        "uname": list(os.uname()),
        "cmdline": text("/proc/cmdline"),
        "iomem": text("/proc/iomem"),
        "meminfo": text("/proc/meminfo"),
        "cpuinfo": text("/proc/cpuinfo"),
        "vmcoreinfo": text("/sys/kernel/vmcoreinfo"),
        "kernel_notes": Path("/sys/kernel/notes").read_bytes().hex(),
        "sysctl": {name: (text(f"/proc/sys/{name}") or "").rstrip("\n") for name in SYSCTLS},
        "paging_levels": 5
        if re.search(r"^flags.*\bla57\b", text("/proc/cpuinfo") or "", re.MULTILINE)
        else 4,
        "kcore": _kcore_segments(),
        "passwd": text("/etc/passwd"),
    }


def clock() -> Truth:
    """When this was: the boot time that /proc/stat gives, and the clocks."""
    stat = text("/proc/stat") or ""
    return {
        "btime": int(re.findall(r"^btime (\d+)", stat, re.MULTILINE)[0]),
        "realtime_ns": time.clock_gettime_ns(time.CLOCK_REALTIME),
        "boottime_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        "monotonic_ns": time.clock_gettime_ns(time.CLOCK_MONOTONIC),
    }


def _kcore_segments() -> list[Truth]:
    """The program headers of /proc/kcore, in the order of elf(5)."""
    import struct

    with open("/proc/kcore", "rb") as file:
        header = file.read(64)
        (offset,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        file.seek(offset)
        names = ("type", "flags", "offset", "virtual", "physical", "file_size", "memory_size", "align")
        return [
            dict(zip(names, struct.unpack("<IIQQQQQQ", file.read(size)), strict=True)) for _ in range(count)
        ]


def physical_address(symbol: str) -> int:
    """Where something of the kernel's image is: behind where its code begins, as far as in kallsyms."""
    symbols = text("/proc/kallsyms") or ""
    found, start = (symbols[: symbols.index(f" {name}\n")] for name in (symbol, "_text"))
    offset = int(found[found.rindex("\n") :].split()[0], 16) - int(start.split("\n")[-1].split()[0], 16)
    (code,) = re.findall(r"^ *(\w+)-\w+ : Kernel code$", text("/proc/iomem") or "", re.MULTILINE)
    return int(code, 16) + offset


def modules() -> list[Truth]:
    """The lines of /proc/modules with what /sys/module adds."""
    found = []
    for line in (text("/proc/modules") or "").splitlines():
        name, size, references, used_by, state, address, *taints = line.split()
        folder = Path("/sys/module") / name
        note = folder / "notes" / ".note.gnu.build-id"
        found.append(
            {
                "name": name,
                "size": int(size),
                "references": None if references == "-" else int(references),
                "used_by": [user for user in used_by.split(",") if user and user != "-"],
                "state": state,
                "address": int(address, 16),
                "taints": taints[0].strip("()") if taints else "",
                "version": (text(folder / "version") or "").strip() or None,
                "build_id": note.read_bytes()[16:].hex() if note.exists() else None,
                "sections": {
                    path.name: (text(path) or "").strip() for path in (folder / "sections").glob("*")
                },
                "parameters": {path.name: text(path) for path in (folder / "parameters").glob("*")},
            }
        )
    return found


def kernel_log() -> list[str]:
    """The records of /dev/kmsg: ``priority,sequence,microseconds,flags;text`` and what follows."""
    records = []
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                records.append(os.fsdecode(os.read(log, 16384)))
            except BlockingIOError:
                return records
            except BrokenPipeError:
                continue  # overtaken by the ring
    finally:
        os.close(log)


def processes() -> list[Truth]:
    return [found for pid in pids() if (found := process(pid))]


def process(pid: int) -> Truth | None:
    """Everything /proc says of a process."""
    base = Path("/proc") / str(pid)
    stat = text(base / "stat")
    if stat is None:
        return None
    kernel_thread = bool(int(stat.rpartition(")")[2].split()[6]) & 0x200000)
    found: Truth = {
        "pid": pid,
        "kernel_thread": kernel_thread,
        "stat": stat,
        "status": text(base / "status"),
        "cmdline": text(base / "cmdline"),
        "environ": text(base / "environ"),
        "exe": link(base / "exe"),
        "cwd": link(base / "cwd"),
        "root": link(base / "root"),
        "cgroup": text(base / "cgroup"),
        "namespaces": _namespaces(base),
        "loginuid": text(base / "loginuid"),
        "limits": text(base / "limits"),
        "oom_score_adj": text(base / "oom_score_adj"),
        "threads": [
            _thread(path) for path in sorted((base / "task").iterdir(), key=lambda path: int(path.name))
        ],
    }
    if not kernel_thread:
        found |= {
            "uid_map": text(base / "uid_map"),
            "gid_map": text(base / "gid_map"),
            "maps": text(base / "maps"),
            "smaps": text(base / "smaps"),
            "auxv": (base / "auxv").read_bytes().hex() if found["exe"] else None,
            "fds": _descriptors(base),
        }
    return found


def _namespaces(base: Path) -> dict[str, int]:
    """The inode number of each namespace."""
    found = {}
    for kind in NAMESPACES:
        target = link(base / "ns" / kind)
        if target:
            found[kind] = int(target.rpartition("[")[2].rstrip("]"))
    return found


def _thread(base: Path) -> Truth:
    return {
        "tid": int(base.name),
        "comm": (text(base / "comm") or "").removesuffix("\n"),
        "stat": text(base / "stat"),
        "status": text(base / "status"),
        "wchan": text(base / "wchan"),
    }


def _descriptors(base: Path) -> list[Truth]:
    found = []
    try:
        names = sorted(int(name) for name in os.listdir(base / "fd"))
    except OSError:
        return []
    for descriptor in names:
        target = link(base / "fd" / str(descriptor))
        entry: Truth = {"fd": descriptor, "target": target, "fdinfo": text(base / "fdinfo" / str(descriptor))}
        try:
            status = os.stat(base / "fd" / str(descriptor))
        except OSError:
            pass
        else:
            entry |= {
                "mode": status.st_mode,
                "inode": status.st_ino,
                "device": [os.major(status.st_dev), os.minor(status.st_dev)],
                "rdev": [os.major(status.st_rdev), os.minor(status.st_rdev)],
                "size": status.st_size,
                "links": status.st_nlink,
                "uid": status.st_uid,
            }
        found.append(entry)
    return found


def addresses() -> dict[str, Truth]:
    """What ip(8) says in each network namespace, by the namespace's inode number."""
    told = {}
    for inode, pid in _one_of_each("net").items():
        enter = [] if pid == os.getpid() else ["nsenter", "-t", str(pid), "-n"]
        told[inode] = {
            name: json.loads(
                subprocess.run([*enter, "ip", "-j", *arguments], capture_output=True, check=True).stdout
            )
            for name, arguments in (
                ("addr", ["-d", "addr"]),
                ("link", ["-d", "-s", "link"]),
                ("neigh", ["neigh"]),
                ("neigh_proxy", ["neigh", "show", "proxy"]),
                ("neigh_nud_all", ["neigh", "show", "nud", "all"]),
                ("route", ["route", "show", "table", "all"]),
            )
        }
    return told


def network() -> dict[str, dict[str, str | None]]:
    """The files of /proc/net in each network namespace, by the namespace's inode number."""
    return {
        inode: {name: text(f"/proc/{pid}/net/{name}") for name in NET_FILES}
        for inode, pid in _one_of_each("net").items()
    }


def mounts() -> dict[str, str | None]:
    """mountinfo in each mount namespace, by the namespace's inode number."""
    return {inode: text(f"/proc/{pid}/mountinfo") for inode, pid in _one_of_each("mnt").items()}


def _one_of_each(kind: str) -> dict[str, int]:
    """A process in each namespace of a kind: this one where it can be, else one that is not chrooted."""
    chosen: dict[str, int] = {}
    for pid in sorted(pids(), key=lambda pid: (pid != os.getpid(), link(f"/proc/{pid}/root") != "/")):
        if inode := _namespaces(Path(f"/proc/{pid}")).get(kind):
            chosen.setdefault(str(inode), pid)
    return chosen


def known_files(paths: list[str]) -> list[Truth]:
    """What lstat says of the files of the scenario."""
    return [{"path": path, **files.lstat(path)} for path in paths]
