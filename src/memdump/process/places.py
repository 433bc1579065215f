"""Which place in a file the memory of a process has that is written in any order."""

from __future__ import annotations

import bisect
import itertools
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


_BEHIND_ALL = 1 << 64


class Place(NamedTuple):
    """Addresses, and where in the file they are."""

    start: int
    end: int
    at: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


class Places:
    """The places that were given away, none of them twice."""

    def __init__(self, first: int) -> None:
        """The first one begins there."""
        self.end = first
        """Where the next one begins."""
        self._given: list[Place] = []

    def give(self, start: int, end: int) -> None:
        """Give addresses that have none yet a place behind all others."""
        bisect.insort(self._given, Place(start, end, self.end))
        self.end += end - start

    def take_back(self, start: int, end: int) -> list[Place]:
        """Let addresses have no place any more; gives those that they had."""
        taken = list(self.of(start, end))
        if not taken:
            return []
        left = []
        for given in self._given:
            if given.end <= start or given.start >= end:
                left.append(given)
                continue
            if given.start < start:
                left.append(given._replace(end=start))
            if given.end > end:
                left.append(Place(end, given.end, given.at + end - given.start))
        self._given = left
        return taken

    def of(self, start: int, end: int) -> Iterator[Place]:
        """Tell where addresses are, as far as they have a place; those that are together come together."""
        whole: Place | None = None
        first = max(bisect.bisect_right(self._given, (start, _BEHIND_ALL)) - 1, 0)
        for given in itertools.islice(self._given, first, None):
            if given.start >= end:
                break
            one, other = max(start, given.start), min(end, given.end)
            if one >= other:
                continue
            at = given.at + one - given.start
            if whole and (whole.end, whole.at + whole.size) == (one, at):
                whole = whole._replace(end=other)
                continue
            if whole:
                yield whole
            whole = Place(one, other, at)
        if whole:
            yield whole

    def without(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Give those of some addresses, first and the one behind the last, that have no place."""
        for place in self.of(start, end):
            if place.start > start:
                yield start, place.start
            start = place.end
        if start < end:
            yield start, end

    def spans(self) -> list[tuple[int, int]]:
        """Give all addresses that have a place."""
        return [(given.start, given.end) for given in self._given]
