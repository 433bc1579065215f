"""Which bytes of a file are which addresses, when the file may say so twice."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

ADDRESS_SPACE = 1 << 64


class Segment(NamedTuple):
    """``size`` bytes that belong at ``start`` and stand at ``offset`` of the file."""

    start: int
    size: int
    offset: int

    @property
    def end(self) -> int:
        """The first address behind the segment."""
        return self.start + self.size


def disjoint(segments: Sequence[Segment]) -> list[Segment]:
    """Sort segments and take out what overlaps: where two claim an address, the one given first keeps it."""
    ordered = sorted(found for found in segments if found.size > 0)
    reached = 0
    for start, size, _ in ordered:
        if start < reached:
            return _sweep(segments)
        reached = start + size
    return ordered


def _sweep(segments: Sequence[Segment]) -> list[Segment]:
    """Go through all bounds in ascending order, with the claims on the current address in a heap by rank."""
    arriving = sorted(
        ((rank, found) for rank, found in enumerate(segments) if found.size > 0),
        key=lambda item: item[1].start,
    )
    bounds = sorted({bound for _, found in arriving for bound in (found.start, found.end)})
    claims: list[tuple[int, Segment]] = []
    result: list[Segment] = []
    owner = -1
    at = 0
    for begin, end in itertools.pairwise(bounds):
        while at < len(arriving) and arriving[at][1].start == begin:
            heapq.heappush(claims, arriving[at])
            at += 1
        while claims and claims[0][1].end <= begin:
            heapq.heappop(claims)
        if not claims:
            owner = -1
            continue
        rank, found = claims[0]
        if rank == owner:
            result[-1] = result[-1]._replace(size=end - result[-1].start)
        else:
            result.append(Segment(begin, end - begin, found.offset + begin - found.start))
        owner = rank
    return result
