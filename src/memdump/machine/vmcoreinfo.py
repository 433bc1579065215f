"""The kernel's VMCOREINFO, which it keeps as an ELF note in memory and says where."""

import sys
from pathlib import Path
from typing import Optional

from memdump.machine import kcore_headers
from memdump.machine.source import Source

PATH = "/sys/kernel/vmcoreinfo"
_LONGEST = 1 << 20


def read(source: Source) -> Optional[str]:
    """Read the text through a source of physical memory; None where the kernel does not say where it is.

    The file gives physical address and size in hex (kernel, ``kernel/ksysfs.c``).
    """
    try:
        address, size = (int(word, 16) for word in Path(PATH).read_text("ascii", "replace").split())
        note = bytearray(min(size, _LONGEST))
        source.read_into(address, memoryview(note))
    except (OSError, ValueError):
        return None
    return kcore_headers.vmcoreinfo(bytes(note), "<" if sys.byteorder == "little" else ">")
