"""What the kernel tells of the pages of a process, in runs of pages of one kind.

``PAGEMAP_SCAN`` (``ioctl_pagemap_scan(2)``) is there since Linux 6.7; what an older kernel tells of each page
alone is for `memory`.
"""

from __future__ import annotations

import bisect
import ctypes
import fcntl
import itertools
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

WATCHED, WRITTEN, FILE, PRESENT, SWAPPED = (1 << bit for bit in range(5))
"""Kinds of pages: in a watched mapping; written to since it was protected; a file's; in memory; in swap."""
_SCAN = 0xC0606610
_ARGUMENT = struct.Struct("=12Q")
_WALKED = 4
"""The word in which the kernel says how far it came."""
_PROTECT = 1 << 0
_REGION = struct.Struct("=QQQ")
_REGIONS = 1024
_BEHIND_ALL = 1 << 64
NEAR = 16 << 20
"""Bytes: what lies so near to something is taken along, as a hole in the file."""


class Wanted(NamedTuple):
    """Which pages are meant, by their kinds."""

    every: int = 0
    """Kinds that a page has to be of, all of them."""
    some: int = 0
    """Kinds of which it has to be one at least."""
    inverted: int = 0
    """Kinds that above mean those that it is not of."""
    told: int = PRESENT | SWAPPED
    """Kinds that are told of those that are found."""
    protect: bool = False
    """Whether they are to be protected, so that the next time only those are `WRITTEN` that were by then."""


class Run(NamedTuple):
    """Pages side by side that are alike."""

    start: int
    end: int
    kinds: int


USED = Wanted(some=PRESENT | SWAPPED)
"""Those that hold anything."""
PROTECTED = Wanted(every=WATCHED, some=PRESENT | SWAPPED, protect=True)
"""Those that are watched and hold anything; they are protected."""
AGAIN = PROTECTED._replace(every=WATCHED | WRITTEN)
"""Those of them that were written to since; they are protected again."""
CHANGED = AGAIN._replace(protect=False)
OWN = Wanted(every=WATCHED | FILE, some=PRESENT | SWAPPED, inverted=WATCHED | FILE)
"""Those that are not watched, hold anything, and are no file's."""
EMPTY = Wanted(every=PRESENT | SWAPPED, inverted=PRESENT | SWAPPED, told=WATCHED)
"""Those of a mapping that are neither in memory nor in swap."""


def scan(pagemap: int, start: int, end: int, wanted: Wanted) -> Iterator[Run]:
    """Give the runs; raises ``OSError`` on older kernels."""
    for found in _scan(pagemap, start, end, wanted):
        yield from runs(found)


def note(pagemap: int, start: int, end: int, wanted: Wanted) -> bytes:
    """Do the same in less time; `runs` reads what this gives."""
    return b"".join(_scan(pagemap, start, end, wanted, regions=_REGIONS << 4))


def runs(noted: bytes) -> Iterator[Run]:
    """Read what was noted."""
    return map(Run._make, _REGION.iter_unpack(noted))


def spans(found: Iterable[Run]) -> Iterator[tuple[int, int]]:
    """Give the start and the end of each run."""
    return ((run.start, run.end) for run in found)


def count(noted: bytes) -> int:
    """Tell how many runs were noted."""
    return len(noted) // _REGION.size


def _scan(pagemap: int, start: int, end: int, wanted: Wanted, regions: int = _REGIONS) -> Iterator[bytes]:
    found = ctypes.create_string_buffer(regions * _REGION.size)
    flags = _PROTECT if wanted.protect else 0
    kinds = (wanted.inverted, wanted.every, wanted.some, wanted.told)
    while start < end:
        place = (ctypes.addressof(found), regions, 0)
        argument = bytearray(_ARGUMENT.pack(_ARGUMENT.size, flags, start, end, 0, *place, *kinds))
        number = fcntl.ioctl(pagemap, _SCAN, argument)
        yield ctypes.string_at(found, number * _REGION.size)
        walked = _ARGUMENT.unpack(argument)[_WALKED]
        if walked <= start:
            return
        start = walked


def inside(found: Sequence[tuple[int, int]], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Give what of some spans, start and end, is within two addresses; they ascend, and none overlap."""
    first = max(bisect.bisect_right(found, (start, _BEHIND_ALL)) - 1, 0)
    for one, other in itertools.islice(found, first, None):
        if one >= end:
            return
        if other > start:
            yield max(start, one), min(end, other)


def joined(spans: Iterable[tuple[int, int]], near: int = NEAR) -> Iterator[tuple[int, int]]:
    """Join those of some spans, start and end, that are near to each other; they ascend."""
    first = last = None
    for one, other in spans:
        if first is None or last is None:
            first, last = one, other
        elif one - last > near:
            yield first, last
            first, last = one, other
        else:
            last = max(last, other)
    if first is not None and last is not None:
        yield first, last
