"""Which machine the memory comes from, and what its clocks show."""

import os
import re
import time
from pathlib import Path
from typing import NamedTuple, Optional

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
"""Bytes of a page on this machine."""
_PAGE_FLAGS = "/proc/kpageflags"
_MEMINFO = "/proc/meminfo"


class Host(NamedTuple):
    """Facts that tell one machine, and one boot of it, from all others."""

    hostname: str
    kernel_release: str
    kernel_version: str
    machine: str
    """The architecture as ``uname -m`` names it."""
    boot_id: Optional[str]
    """Random, new at each boot (``/proc/sys/kernel/random/boot_id``)."""
    page_size: int
    command_line: Optional[str]
    """The kernel's own command line."""


class Instant(NamedTuple):
    """One moment, on two clocks."""

    utc: str
    """The wall clock, which may be wrong or be set: ISO 8601."""
    boot_time_ns: int
    """Nanoseconds since boot, suspended time included (CLOCK_BOOTTIME), which nobody sets."""


def this_host() -> Host:
    """Ask the running kernel."""
    system = os.uname()
    return Host(
        hostname=printable(system.nodename),
        kernel_release=system.release,
        kernel_version=system.version,
        machine=system.machine,
        boot_id=_line("/proc/sys/kernel/random/boot_id"),
        page_size=PAGE_SIZE,
        command_line=_line("/proc/cmdline"),
    )


def page_flags(first: int, count: int) -> bytes:
    """Give the flags of ``count`` pages from page number ``first``, 8 bytes each; raises ``OSError``."""
    file = os.open(_PAGE_FLAGS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(file, count * 8, first * 8)
    finally:
        os.close(file)


def broken_memory() -> int:
    """Give the bytes of memory with a hardware error; 0 too where the kernel does not tell."""
    text = _line(_MEMINFO) or ""
    found = re.search(r"^HardwareCorrupted: +([0-9]{1,15}) kB$", text, re.MULTILINE)
    return int(found.group(1)) << 10 if found else 0


def printable(text: str) -> str:
    """Spell what is not UTF-8 in a name of the system with backslashes, so that any file can hold it."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def now() -> Instant:
    """Read both clocks."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    utc = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1000:06}Z"
    return Instant(utc, time.clock_gettime_ns(time.CLOCK_BOOTTIME))


def image_name(hostname: str) -> str:
    """Name an image after its host and the time: ``web1-20260131T235959Z.lime``."""
    # A host name is free text to the kernel; in a file name only letters, digits, "." and "-" are safe.
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "_" for c in hostname)
    return f"{safe.lstrip('.') or 'host'}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.lime"


def _line(path: str) -> Optional[str]:
    try:
        return Path(path).read_text("utf-8", "backslashreplace").strip()
    except OSError:
        return None
