"""The process that stops others and lets them run on, whatever becomes of the one that asked for it.

It is a process of its own because memdump may be killed at any moment: the guardian notices, restores what it
stopped, and ends the copies.  It does nothing that takes long or may fail for other reasons (no reading of
the memory, no writing to disks), and does not hear the signals that end memdump.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

from memdump.errors import MemdumpError, NotPermitted
from memdump.process import architecture, channel
from memdump.process.capture import Capture, Captured, Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from memdump.process.channel import Channel

EARLY = 16 << 20
"""Bytes that are read while the processes stand, at most: a few milliseconds."""
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGPIPE)
_NULL = "/dev/null"


class Ended(NamedTuple):
    """How it ended for one process."""

    pid: int
    pauses: tuple[int, ...]
    """Nanoseconds, each time that it stood."""
    left: str | None
    """What could not be taken back."""


class Guardian:
    """The guardian of some processes; use it in a ``with`` block, which ends it."""

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        """Start it; it waits for `hold`."""
        self._early = mmap.mmap(-1, EARLY)  # shared with the guardian, untouched until it is used
        self._known = architecture.this()
        ours, its = channel.pair()
        self._channel = ours
        self._ended: dict[int, Ended] = {}
        self._pid = os.fork()
        if not self._pid:
            _guard(its, wanted, self._early, self._known)
        its.close()

    def hold(self) -> list[Captured]:
        """Take all processes at one instant; raises what kept the guardian from it."""
        self._channel.send(None)
        found: list[Captured] = self._answer()
        return found

    def early(self, at: int, size: int) -> memoryview:
        """Give what was read while the processes stood."""
        return memoryview(self._early)[at : at + size]

    def release(self, pid: int) -> Ended:
        """Let a process go that stands, and end its copy; tells how that went, the second time too."""
        if pid not in self._ended:
            self._channel.send(pid)
            self._ended[pid] = self._answer()
        return self._ended[pid]

    def _answer(self) -> Any:
        try:
            answer = self._channel.receive()
        except EOFError:
            raise MemdumpError("memdump's guardian was killed; the processes run on") from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def __enter__(self) -> Guardian:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _guard(
    its: Channel, wanted: Sequence[Wanted], early: mmap.mmap, known: architecture.Architecture
) -> None:
    """Be the guardian; never returns."""
    status = 1
    try:
        _leave(its)
        _serve(its, [Capture(one, known) for one in wanted], early)
        status = 0
    except (OSError, EOFError):
        pass
    finally:
        os._exit(status)


def _leave(its: Channel) -> None:
    """Become independent of the one that started it."""
    os.setsid()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # `Threads` waits for it
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("-1000")
    # Others stand still while it works, which is a matter of milliseconds.
    gc.disable()
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    null = os.open(_NULL, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    # A pipe that memdump writes to has to end when memdump ends.
    os.closerange(3, its.fileno())
    os.closerange(its.fileno() + 1, os.sysconf("SC_OPEN_MAX"))


def _serve(its: Channel, captures: list[Capture], early: mmap.mmap) -> None:
    """Hold the processes from the first message on, and let go of each that a message names."""
    its.receive()
    try:
        its.send(_hold(captures, early))
        while captures:
            pid = its.receive()
            (chosen,) = (one for one in captures if one.pid == pid)
            captures.remove(chosen)
            its.send(_end(chosen))
    except Exception as error:  # whatever it is, the one that asked has to hear of it
        for one in captures:
            _end(one)
        captures.clear()
        its.send(_plain(error))
    finally:
        for one in captures:
            _end(one)


def _end(capture: Capture) -> Ended:
    left = capture.end()
    return Ended(capture.pid, tuple(capture.pauses), left)


def _hold(captures: Sequence[Capture], early: mmap.mmap) -> list[Captured]:
    for one in captures:
        one.prepare()
    for one in captures:
        one.attach()
    try:
        for one in captures:
            one.stop()
        used = 0
        for one in captures:
            used = one.take(early, used)
        for one in captures:
            one.copy()
    finally:
        for one in captures:
            one.go_on()
    for one in captures:
        one.prepare_copy()
    return [one.captured() for one in captures]


def _plain(error: Exception) -> MemdumpError:
    if isinstance(error, MemdumpError):
        return error
    if isinstance(error, PermissionError):
        return NotPermitted(f"the process may not be read: {error.strerror}")
    return MemdumpError(f"the process could not be taken: {error}")
