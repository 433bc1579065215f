"""Memory that must not be touched, not even by reading.

Pages that are offline or lent to a balloon driver may be gone: a hypervisor may stop a guest that reads them.
Pages with a hardware error stop the machine.  ``/proc/kcore`` gives zeros in their place; who reads memory
in another way has to see to it himself.
"""

import re
import sys
from pathlib import Path
from typing import Iterator, Tuple

from memdump.errors import NotPermitted
from memdump.machine import host, pageflags
from memdump.machine.source import Range

MEMINFO = "/proc/meminfo"

_UNTOUCHABLE = pageflags.HWPOISON | pageflags.OFFLINE | pageflags.NOPAGE
"""Broken; lent to a balloon driver or unplugged; not in use by the kernel yet, or no more."""
# The three bits are in one byte of the eight, so that most blocks are told to be harmless at a glance.
_SHIFT = 16
_BYTE = _SHIFT // 8 if sys.byteorder == "little" else 7 - _SHIFT // 8
_HARMLESS = bytes(value for value in range(256) if not value << _SHIFT & _UNTOUCHABLE)


def runs(address: int, size: int, page_size: int = host.PAGE_SIZE) -> Iterator[Tuple[Range, bool]]:
    """Cut physical memory into runs of pages, each with whether it may be read.

    What the kernel tells nothing of (no ``/proc/kpageflags``, CONFIG_PROC_PAGE_MONITOR, or it ends) may be.
    """
    first = address // page_size
    end = address + size
    count = -(-end // page_size) - first
    try:
        flags = host.page_flags(first, count)[_BYTE::8].ljust(count, b"\0")
    except OSError:
        flags = b""
    if not flags.translate(None, _HARMLESS):
        yield Range(address, size), True
        return
    bad = [value not in _HARMLESS for value in flags]
    start = address
    for index, this in enumerate(bad):
        behind = min((first + index + 1) * page_size, end)
        if index + 1 == len(bad) or bad[index + 1] != this:
            yield Range(start, behind - start), not this
            start = behind


def check() -> None:
    """Raise `NotPermitted` where memory was never accepted from the hypervisor (SEV-SNP, TDX).

    A guest that reads such memory is stopped; no flag of a page tells which it is.
    """
    try:
        text = Path(MEMINFO).read_text("ascii", "replace")
    except OSError:
        return
    found = re.search(r"^Unaccepted: +([0-9]+) kB$", text, re.MULTILINE)
    if found and int(found.group(1)):
        raise NotPermitted(
            f"this confidential guest has not accepted {found.group(1)} KiB of its memory yet, and would be "
            "stopped if it read them; use kcore, which keeps away from them"
        )
