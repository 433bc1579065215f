"""Leaving out of a file the pages that are zeros: they read as zeros, and take no room on the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from memdump.machine.host import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

_ZEROS = bytes(PAGE_SIZE)


class Place(Protocol):
    """Where bytes go."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take all of ``data``."""

    def skip(self, size: int) -> None:
        """Take so many zeros."""


class Sparse:
    """A stream whose pages of zeros are skipped; what is written to it must be whole pages."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def write(self, data: bytes | memoryview, /) -> None:
        """Take all of ``data``."""
        view = memoryview(data)
        for start, end, zeros in runs(view):
            if zeros:
                self._place.skip(end - start)
            else:
                self._place.write(view[start:end])


def runs(view: memoryview) -> Iterator[tuple[int, int, bool]]:
    """Give the runs of pages, start and end, that are all zeros and that are not."""
    start, before = 0, False
    zeros = _zero_pages(view)
    for page in range(0, len(view), PAGE_SIZE):
        now = page in zeros
        if now != before and page:
            yield start, page, before
            start = page
        before = now
    if len(view):
        yield start, len(view), before


def _zero_pages(view: memoryview) -> set[int]:
    """Give the offsets of pages of zeros."""
    # One byte of each page tells most of those that are not; slices of bytes are compared quickly.
    first = bytes(view[::PAGE_SIZE])
    pages = (number * PAGE_SIZE for number, byte in enumerate(first) if not byte)
    return {page for page in pages if bytes(view[page : page + PAGE_SIZE]) == _ZEROS}
