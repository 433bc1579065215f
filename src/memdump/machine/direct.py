"""Writing to a file past the memory in which the system keeps files (the page cache).

That memory has to be found first, which on a machine that uses all of its own takes longer than a quick
disk does, and what else is kept there gives way.  A slow disk is another matter: the system takes the bytes
at once and writes them later.  So both ways are tried, and tried again, and the quicker one is taken.
"""

import os
from typing import List

LEAST = 256 << 10
"""Bytes of a write that may go directly: each has to wait for the disk."""
_ALIGNED = 4096
"""What places, in memory and in the file, and sizes have to be a multiple of; no disk wants more."""
_AGAIN = 16
"""Every so many writes take the other way, to see whether it is the quicker one by now."""
_WEIGHT = 0.25
"""Of the latest write, in what is thought of its way."""


class Direct:
    """The direct way to a file that is open already; several threads may use it at once."""

    def __init__(self, fd: int) -> None:
        """Open the file once more for it; raises ``OSError`` where its file system does not offer that."""
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        self._pace: List[float] = [0.0, 0.0]
        """Seconds a byte, buffered and direct; 0 until it was tried."""
        self._writes = 0
        self._refused = False

    def is_quicker(self, size: int, at: int) -> bool:
        """Whether ``size`` bytes that are to stand ``at`` that place should go this way."""
        if self._refused or size < LEAST or (size | at) % _ALIGNED:
            return False
        self._writes += 1
        buffered, direct = self._pace
        return (direct <= buffered) == bool(self._writes % _AGAIN)

    def write(self, data: memoryview, at: int) -> int:
        """Write as ``pwrite`` does, which may be less than all; raises ``OSError``."""
        return os.pwrite(self._fd, data, at)

    def give_up(self) -> None:
        """Never go this way again: there are file systems that open files for it and refuse the writes."""
        self._refused = True

    def tell(self, *, direct: bool, size: int, seconds: float) -> None:
        """Say how long a write took that went the one way or the other."""
        if size < LEAST:
            return
        before, now = self._pace[direct], seconds / size
        self._pace[direct] = before + _WEIGHT * (now - before) if before else now

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)
