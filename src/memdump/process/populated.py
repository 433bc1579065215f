"""Where in a vast mapping there is anything: programs reserve terabytes of addresses that they never use.

The kernel tells runs of pages since Linux 6.7 (``PAGEMAP_SCAN``, ``ioctl_pagemap_scan(2)``); an older one
tells each page, eight bytes for each.
"""

from __future__ import annotations

import ctypes
import fcntl
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SCAN = 0xC0606610
_ARGUMENT = struct.Struct("=12Q")
_WALKED = 4
"""The word in which the kernel says how far it came."""
_PRESENT, _SWAPPED = 1 << 3, 1 << 4
_REGION = struct.Struct("=QQQ")
_REGIONS = 1024
NEAR = 16 << 20
"""Bytes: what lies so near to something is taken along, as a hole in the file."""


def populated(pagemap: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Give the runs, start and end, outside of which nothing is; raises ``OSError`` on older kernels."""
    return joined(_regions(pagemap, start, end))


def joined(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join those of some runs, which ascend, that are near to each other."""
    first = last = None
    for one, other in runs:
        if first is None or last is None:
            first, last = one, other
        elif one - last > NEAR:
            yield first, last
            first, last = one, other
        else:
            last = max(last, other)
    if first is not None and last is not None:
        yield first, last


def _regions(pagemap: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    found = ctypes.create_string_buffer(_REGIONS * _REGION.size)
    wanted = _PRESENT | _SWAPPED
    while start < end:
        argument = bytearray(
            _ARGUMENT.pack(
                _ARGUMENT.size, 0, start, end, 0, ctypes.addressof(found), _REGIONS, 0, 0, 0, wanted, wanted
            )
        )
        count = fcntl.ioctl(pagemap, _SCAN, argument)
        for index in range(count):
            one, other, _ = _REGION.unpack_from(found, index * _REGION.size)
            yield one, other
        walked = _ARGUMENT.unpack(argument)[_WALKED]
        if walked <= start:
            return
        start = walked
