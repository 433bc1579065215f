"""Has memdump's guardian die in front of one request to the kernel after the other."""

from __future__ import annotations

import functools
import os
import signal
from typing import TYPE_CHECKING

from memdump.process import inject, ptrace
from memdump.process.guardian import Guardian
from memdump.process.selection import Choice
from memdump.process.target import survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def begin(pid: int, prepare: Callable[[], None]) -> int:
    """Begin a process that prepares itself and then takes another one; its id."""
    taker = os.fork()
    if taker:
        return taker
    status = 1
    try:
        prepare()
        with Guardian([survey(pid, "fork").wanted(Choice())]) as guardian:
            guardian.hold()
            guardian.release(pid)
        status = 0
    finally:
        os._exit(status)


def points(pid: int, *, anywhere: bool) -> Iterator[int]:
    """Have a guardian take a process and die before its first request, another before its second, and so on.

    It ends with the first guardian that comes to its end.  If not ``anywhere``, only those requests count
    that are made while a thread is borrowed.
    """
    number = 1
    while not survives(pid, number, anywhere=anywhere):
        yield number
        number += 1


def survives(pid: int, dies_at: int, *, anywhere: bool) -> bool:
    """Whether a guardian that takes a process comes to its end before its n-th request, where it dies."""
    return os.waitpid(begin(pid, functools.partial(_have_it_die, dies_at, anywhere)), 0)[1] == 0


def _have_it_die(dies_at: int, anywhere: bool) -> None:
    request, call = ptrace._PTRACE, inject.call
    counts, left = anywhere, dies_at

    def counted(*arguments: object) -> object:
        nonlocal left
        left -= counts
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return request(*arguments)

    def borrowing(*arguments: object, **options: int) -> object:
        nonlocal counts
        counts = True
        try:
            return call(*arguments, **options)  # type: ignore[arg-type]
        finally:
            counts = anywhere

    ptrace._PTRACE = counted  # type: ignore[assignment]
    inject.call = borrowing  # type: ignore[assignment]
