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
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from memdump.errors import MemdumpError, NotPermitted
from memdump.process import architecture, channel, refusal
from memdump.process.capture import CHANGED, EARLY, FORK, LIVE, Capture, Captured, Gone, Wanted
from memdump.process.threads import PATIENCE, Busy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from memdump.process.channel import Channel
    from memdump.process.target import Target

_TRIES, _BETWEEN, _PATIENCE = 10, 0.005, 0.02
"""To stop several processes, should one not stop because of another; seconds between, and for each try."""
_ROUNDS = 16
"""Of looking for processes that were begun before those stood that begin them."""
_BETWEEN_LOOKS, _FAREWELL = 0.1, 10.0
"""Seconds after which it is asked whether memdump is to end; for which it waits for the guardian's end."""
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGPIPE)
_KILLED = "memdump's guardian was killed; the processes run on"
_NULL = "/dev/null"


class Watch(NamedTuple):
    """Asks for the writes of a process to be watched."""

    pid: int


class Ended(NamedTuple):
    """How it ended for one process."""

    pid: int
    pauses: tuple[int, ...]
    """Nanoseconds, each time that it stood."""
    left: str | None
    """What could not be taken back."""


class Copied(NamedTuple):
    """A process has its copy."""

    pid: int
    child: int


class Held(NamedTuple):
    """The processes at their instant."""

    captured: list[Captured]
    ended: list[int]
    """Those that had ended before."""
    joined: list[Target]
    """Those that were found only while the others were being stopped."""
    whole: bool
    """Whether no more were to be found."""


class Found(NamedTuple):
    """What a look at the processes has found."""

    pids: list[int]
    settled: bool
    """Whether all that were seen for the first time were alive.

    One that has ended may have begun another one just before, which was not seen.
    """


class Others(Protocol):
    """Where processes are found that belong to those that are wanted (`members.Members`)."""

    def find(self, *, everywhere: bool) -> Found:
        """Look for those that were not given before; ``everywhere``: among all, not the latest ones only."""

    def look(self, pid: int, *, stands: bool) -> tuple[Target, Wanted]:
        """Tell what is wanted of one; raises `Gone` and others."""


class Guardian:
    """The guardian of some processes; use it in a ``with`` block, which ends it."""

    def __init__(
        self,
        wanted: Sequence[Wanted],
        others: Others | None = None,
        interrupted: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Start it; it waits for `hold`, and then looks for others.

        ``interrupted`` gives what has come to end memdump, if anything.
        """
        self._early = mmap.mmap(-1, EARLY + CHANGED)  # shared with the guardian, untouched until it is used
        self._known = architecture.this()
        ours, its = channel.pair()
        self._channel = ours
        self._copies: dict[int, int] = {}
        """Of the processes that were taken and not released, those that have one."""
        self._ended: dict[int, Ended] = {}
        self._interrupted = interrupted
        self._pid = os.fork()
        if not self._pid:
            _guard(its, _Set(wanted, others, self._known), self._early)
        its.close()

    def watch(self, pid: int) -> None:
        """Have what a process writes noted from now on, so that it may be copied beforehand.

        Raises `Unwatched`, or what else kept the guardian from it; the process is taken in another mode then.
        """
        self._ask(Watch(pid))

    def hold(self) -> Held:
        """Take all processes at one instant; raises what kept the guardian from it, or `Gone`."""
        found: Held = self._ask(None)
        return found

    def _ask(self, message: object) -> Any:
        """Have something done that takes long where a process is frozen meanwhile: it can be interrupted."""
        self._send(message)
        while True:
            while not self._channel.waits(_BETWEEN_LOOKS):
                reason = self._interrupted()
                if reason:
                    raise MemdumpError(f"stopped by {reason} before anything was taken; nothing was written")
            answer = self._answer()
            if not isinstance(answer, Copied):
                return answer
            self._copies[answer.pid] = answer.child

    def early(self, at: int, size: int) -> memoryview:
        """Give what was read while the processes stood."""
        return memoryview(self._early)[at : at + size]

    def release(self, pid: int) -> Ended:
        """Let a process go that stands, and end its copy; tells how that went, the second time too."""
        if pid not in self._ended:
            self._send(pid)
            self._ended[pid] = self._answer()
            self._copies.pop(pid, None)
        return self._ended[pid]

    def is_there(self) -> bool:
        """Whether nobody has killed it; to be asked when nothing is asked of it."""
        return not self._channel.waits(0)

    def _send(self, message: object) -> None:
        try:
            self._channel.send(message)
        except OSError:
            raise MemdumpError(_KILLED) from None

    def _answer(self) -> Any:
        try:
            answer = self._channel.receive()
        except EOFError:
            raise MemdumpError(_KILLED) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def __enter__(self) -> Guardian:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()
        # What it has still to do cannot be hurried, and it needs nobody for that.
        status = _waited_for(self._pid)
        if status is not None and os.WIFSIGNALED(status) and self._copies:
            self._reap()

    def _reap(self) -> None:
        """Have the copies reaped that a guardian has left which was killed: they have ended with it."""
        reaper = os.fork()
        if reaper:
            _waited_for(reaper)
            return
        try:
            _leave()
            for pid, child in self._copies.items():
                Capture(Wanted(pid, FORK), self._known).reap_left(child)
        finally:
            os._exit(0)


def _waited_for(pid: int) -> int | None:
    """Wait for a process of ours that is about to end; gives its status, or None where it takes too long."""
    end = time.monotonic() + _FAREWELL
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < end:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return status
            time.sleep(_BETWEEN)
    return None


def _guard(its: Channel, held: _Set, early: mmap.mmap) -> None:
    """Be the guardian; never returns."""
    status = 1
    try:
        _leave(its)
        _serve(its, held, early)
        status = 0
    except (OSError, EOFError):
        pass
    finally:
        os._exit(status)


def _leave(its: Channel | None = None) -> None:
    """Become independent of the one that started it, but for a channel."""
    os.setsid()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    # `Threads` waits for it, and none comes where whoever started memdump ignores it.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
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
    kept = its.fileno() if its else 2
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _serve(its: Channel, held: _Set, early: mmap.mmap) -> None:
    """Hold the processes from the first message on, and let go of each that a message names."""
    captures = held.captures
    ended: list[Capture] = []
    try:
        while isinstance(message := its.receive(), Watch):
            its.send(held.watch(message.pid))
        its.send(held.hold(early, its.send))
        for one in captures:
            one.unwatch()
        while captures:
            _leave_alone(ended, its)
            pid = its.receive()
            (chosen,) = (one for one in captures if one.pid == pid)
            captures.remove(chosen)
            its.send(_end(chosen))
            ended.append(chosen)
    except Exception as error:  # whatever it is, the one that asked has to hear of it
        for one in captures:
            _end(one)
        captures.clear()
        its.send(_plain(error))
    finally:
        for one in captures:
            _end(one)


def _leave_alone(ended: list[Capture], its: Channel) -> None:
    """Until there is a message, leave threads alone that stop only now: they would stand until the end."""
    while ended and not its.waits(_BETWEEN):
        ended[:] = [one for one in ended if not one.leave()]


def _end(capture: Capture) -> Ended:
    left = capture.end()
    return Ended(capture.pid, tuple(capture.pauses), left)


class _Set:
    """The processes that are to stand at one instant."""

    def __init__(
        self, wanted: Sequence[Wanted], others: Others | None, known: architecture.Architecture
    ) -> None:
        self.captures = [Capture(one, known) for one in wanted]
        """All that there are until now, and have not ended."""
        self._others = others
        self._known = known
        self._strangers: list[Capture] = []
        """Those that were found when the others stood; nobody has looked at them yet."""
        self._joined: list[Target] = []
        self._ended: list[int] = []

    def hold(self, early: mmap.mmap, tell: Callable[[object], None]) -> Held:
        """Take them; leaves those standing that are read so.  ``tell`` hears of each copy at once."""
        self._meet()
        for one in self.captures:
            one.prepare()
        try:
            whole = self._stop()
            self._each(self._look_at)
            used = 0

            def take(one: Capture) -> None:
                nonlocal used
                used = one.take(early, used)

            def copy(one: Capture) -> None:
                one.copy()
                if one.child is not None:
                    tell(Copied(one.pid, one.child))

            self._each(take)
            self._each(copy)
        finally:
            for one in self.captures:
                one.go_on()
        for one in self.captures:
            one.prepare_copy()
        if not self.captures:
            raise Gone(f"process {self._ended[0]} has ended" if self._ended else "all of them have ended")
        taken = [one.captured() for one in self.captures]
        there = {one.pid for one in taken}
        joined = [one for one in self._joined if one.pid in there]
        return Held(taken, self._ended, joined, whole)

    def watch(self, pid: int) -> MemdumpError | None:
        """Watch one; gives what kept it from that."""
        (chosen,) = (one for one in self.captures if one.pid == pid)
        try:
            chosen.watch()
        except (OSError, MemdumpError) as error:
            return _plain(error)
        return None

    def _meet(self) -> None:
        """Look for others that came while the first ones were being looked at."""
        for pid in self._others.find(everywhere=True).pids if self._others else ():
            assert self._others
            with contextlib.suppress(Gone, refusal.Missing):
                found, wanted = self._others.look(pid, stands=False)
                self._joined.append(found)
                self.captures.append(Capture(wanted, self._known))

    def _stop(self) -> bool:
        """Stop all; whether no others were to be found in the end.

        A process that has just begun another one (``vfork``) does not stop before that one goes on, which may
        stand already.
        """
        for _ in range(_TRIES):
            with contextlib.suppress(Busy):
                return self._try_to_stop(_PATIENCE)
            for one in self.captures:
                one.release()
            if len(self.captures) == 1:
                break
            time.sleep(_BETWEEN)
        return self._try_to_stop(PATIENCE)

    def _try_to_stop(self, patience: float) -> bool:
        self._stop_these(self.captures, patience)
        for _ in range(_ROUNDS):
            if self._others is None:
                return True
            pids, settled = self._others.find(everywhere=False)
            if settled and not pids:
                return True
            # What is wanted of them is found out when they cannot begin any more.
            new = [Capture(Wanted(pid, LIVE), self._known) for pid in pids]
            self.captures += new
            self._strangers += new
            self._stop_these(new, patience)
        return False

    def _stop_these(self, captures: Sequence[Capture], patience: float) -> None:
        these, busy = list(captures), []
        for one in these:
            one.attach()
        for one in these:
            one.stop()

        def settle(one: Capture) -> None:
            try:
                one.settle(patience)
            except Busy as error:
                busy.append(error)  # the others are let go only once they stand

        self._each(settle, these)
        if busy:
            raise busy[0]

    def _look_at(self, one: Capture) -> None:
        if one not in self._strangers:
            return
        assert self._others
        found, wanted = self._others.look(one.pid, stands=True)
        self._joined.append(found)
        one.becomes(wanted)
        one.prepare()

    def _each(self, step: Callable[[Capture], None], captures: Sequence[Capture] | None = None) -> None:
        """Take a step with each; those that have ended are no more among them then."""
        for one in list(self.captures if captures is None else captures):
            try:
                step(one)
            except (Gone, ProcessLookupError, FileNotFoundError):
                self.captures.remove(one)
                one.end()
                # Nobody has heard of a stranger, nor needs to.
                if one not in self._strangers:
                    self._ended.append(one.pid)


def _plain(error: Exception) -> MemdumpError:
    if isinstance(error, MemdumpError):
        return error
    if isinstance(error, PermissionError):
        return NotPermitted(f"the process may not be read: {error.strerror}")
    return MemdumpError(f"the process could not be taken: {error}")
