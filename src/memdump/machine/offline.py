"""Memory that the kernel does not use any more, or not yet, although the machine has it.

It goes online and offline in blocks (kernel, ``Documentation/ABI/testing/sysfs-devices-memory``).  Before a
block goes offline, what was in it is moved elsewhere: there is nothing in it, and whoever gives memory gives
zeros for it (`untouchable`).
"""

import contextlib
import re
from pathlib import Path
from typing import List

from memdump.machine import pieces
from memdump.machine.source import Range

PATH = "/sys/devices/system/memory"
_BLOCK = re.compile(r"memory([0-9]{1,12})", re.ASCII)


def blocks(folder: str = PATH) -> List[Range]:
    """Give the blocks that are offline; none where the kernel does not tell."""
    found: List[Range] = []
    try:
        size = int(Path(folder, "block_size_bytes").read_text("ascii"), 16)
        names = [_BLOCK.fullmatch(path.name) for path in Path(folder).iterdir()]
    except (OSError, ValueError):
        return []
    for number in sorted(int(name[1]) for name in names if name):
        with contextlib.suppress(OSError):  # it may be unplugged at this very moment
            if Path(folder, f"memory{number}", "state").read_text("ascii").strip() == "offline":
                pieces.add(found, Range(number * size, size))
    return found
