"""Keeping memdump's own memory small: each page of it takes the place of one that was to be taken."""

import contextlib

_M_ARENA_MAX = -8
_ARENAS = 2


def lower() -> None:
    """Have all threads share what was freed; glibc keeps some MB of it for each (``mallopt(3)``).

    To be called before threads are started.  Other C libraries have no such setting and no need of it.
    """
    import ctypes

    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
