"""Reads large areas of which parts may be missing."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import drgn

if TYPE_CHECKING:
    from memdump.kernel.kernel import Kernel

PAGE = 4096
MOST = 256 << 20
"""No table of the kernel that is read whole is larger than this."""


def read_partial(kernel: Kernel, address: int, size: int, table: str, place: str) -> bytes:
    """``size`` bytes at a virtual address, with zeros for the pages that are not there, which are noted.

    Raises `ValueError` where the size is absurd.
    """
    if not 0 <= size <= MOST:
        raise ValueError(f"a size of {size} bytes is absurd")
    program = kernel.program
    with contextlib.suppress(drgn.FaultError):
        return bytes(program.read(address, size))
    parts, lost = [], 0
    end = address + size
    while address < end:
        take = min(end, (address | PAGE - 1) + 1) - address
        try:
            parts.append(program.read(address, take))
        except drgn.FaultError:
            parts.append(bytes(take))
            lost += take
        address += take
    kernel.problems.add(table, place, f"{lost} of its {size} bytes are not in this image")
    return b"".join(parts)
