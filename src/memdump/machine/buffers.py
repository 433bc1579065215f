"""Memory that much is copied to and from."""

import mmap

LINE = 64
"""Bytes that places for such copies should be a multiple of."""
_POPULATE = getattr(mmap, "MAP_POPULATE", 0x8000)  # known to Python from 3.10 on


def page_aligned(size: int, *, populated: bool = False) -> memoryview:
    """Give a buffer that starts where a page does; all of it is in memory at once if it is ``populated``.

    ``size`` is at least one byte.  Processors copy pages up to three times as fast to such a place, or to
    another multiple of `LINE`, as to one a few bytes behind it.  Raises ``OSError``.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_POPULATE if populated else 0)
    return memoryview(mmap.mmap(-1, size, flags))
