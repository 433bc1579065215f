"""Stopping all threads of a process, and letting them run again."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import MemdumpError, NotPermitted
from memdump.process import proc, ptrace, refusal, safety
from memdump.process.architecture import NT_PRSTATUS, restartable

if TYPE_CHECKING:
    from collections.abc import Callable

    from memdump.process.architecture import Architecture

PATIENCE = 0.1
"""Seconds for which the others stand until a thread is given up that waits for a device."""
_LONGEST = 2.0
"""Seconds for which the others stand until a thread is given up that finds no free processor."""
_SWITCHES = "voluntary_ctxt_switches"
_LET, _WAY = 5, 0.001
"""How often and how long (seconds) threads are let run that may be on their way into a system call."""
_LOOK = 0.005
"""Seconds after which a thread is looked at, should no signal tell of it."""
_CLONE3, _CLONE_VFORK = 435, 0x4000
"""A system call, on all architectures; what its flags, and those of ``clone``, say of ``vfork``."""
_AGAIN = "the process runs on: try again"


class Busy(MemdumpError):
    """A thread cannot be stopped now."""


class Standing(NamedTuple):
    """A thread that was stopped."""

    registers: bytes
    """As ``NT_PRSTATUS`` has them, before anything was corrected in them."""
    signal: int
    """The signal that had stopped the whole process before; 0 where it was running."""


class Threads:
    """The threads of one process."""

    def __init__(
        self, pid: int, architecture: Architecture, wants: Callable[[int], bool] | None = None
    ) -> None:
        """Nothing is done yet; ``wants`` tells which threads are meant, where not all are."""
        self.pid = pid
        self.standing: dict[int, Standing] = {}
        self._architecture = architecture
        self._moving: set[int] = set()
        self._ended: set[int] = set()
        self._waited: dict[int, tuple[proc.Call, int]] = {}
        """The calls that threads waited in when they were asked to stop, and how often they had waited."""
        self._left_out: set[int] = set()
        self._wants = wants

    def seize(self) -> bool:
        """Attach to the threads that are not attached yet, all of which run on; whether there were any.

        Raises `NotPermitted`.
        """
        known = self._moving | self.standing.keys() | self._ended | self._left_out
        new = [tid for tid in proc.threads(self.pid) if tid not in known]
        if self._wants:
            self._left_out.update(tid for tid in new if not self._wants(tid))
            new = [tid for tid in new if tid not in self._left_out]
        for tid in new:
            try:
                ptrace.seize(tid)
            except ProcessLookupError:
                self._ended.add(tid)
            except PermissionError:
                self._not_permitted(tid)
            else:
                self._moving.add(tid)
        return bool(new)

    def _not_permitted(self, tid: int) -> None:
        """Tell a thread that has ended from one that may not be attached to."""
        try:
            found = proc.status(tid)
        except OSError:
            found = proc.Status({"State": "X"})
        if found.state in "ZX":
            self._ended.add(tid)
            return
        tracer = found.number("TracerPid")
        if tracer:
            raise refusal.traced(self.pid, tracer)
        raise NotPermitted(f"process {self.pid} must not be traced from here")

    @property
    def moving(self) -> frozenset[int]:
        """Those that are attached and do not stand."""
        return frozenset(self._moving)

    def interrupt(self) -> None:
        """Ask all to stop; `settle` waits until they have."""
        if self._architecture.original is None:
            self._let_wait()
        for tid in list(self._moving):
            self._interrupt(tid)

    def _interrupt(self, tid: int) -> None:
        # One that is asked again may stand already, and has waited once more for that.
        if self._architecture.original is None and tid not in self._waited:
            self._note_call(tid)
        try:
            ptrace.interrupt(tid)
        except ProcessLookupError:
            self._moving.discard(tid)
            self._ended.add(tid)

    def _let_wait(self) -> None:
        """Let threads that are on their way into a call come there: what they wait in can be noted then."""
        for _ in range(_LET):
            if not any(proc.runs(tid) for tid in self._moving):
                return
            time.sleep(_WAY)

    def _note_call(self, tid: int) -> None:
        """Note what a thread waits in, where the kernel does not tell a tracer when it stands."""
        found = proc.call(tid)
        if found and found.number in restartable(self._architecture):
            with contextlib.suppress(OSError):
                self._waited[tid] = found, proc.status(tid).number(_SWITCHES)

    def settle(self, patience: float = PATIENCE) -> None:
        """Wait until all stand, those that were begun meanwhile included; raises `Busy`."""
        start = time.monotonic()
        while self._moving or self.seize():
            new = sorted(self._moving)
            for tid in new:
                self._interrupt(tid)
            for tid in new:
                self._wait_for(tid, start, patience)

    def _wait_for(self, tid: int, start: float, patience: float) -> None:
        while tid in self._moving:
            stop = ptrace.wait(tid, now=True)
            if stop is not None:
                self._stopped(tid, stop)
                continue
            # Each stop is told by a signal, which the guardian blocks so that it can wait for it.
            signal.sigtimedwait([signal.SIGCHLD], _LOOK)
            self._give_up(tid, time.monotonic() - start, patience)

    def _stopped(self, tid: int, stop: ptrace.Stop) -> None:
        if stop.ended:
            self._moving.discard(tid)
            self._ended.add(tid)
        elif not stop.for_us:
            # It stands for a signal, which goes its way; right behind it the thread stops for us.
            with contextlib.suppress(ProcessLookupError):
                ptrace.cont(tid, stop.signal if not stop.event else 0)
        else:
            self._moving.discard(tid)
            with contextlib.suppress(ProcessLookupError):
                self.standing[tid] = self._correct(tid, stop)

    def _correct(self, tid: int, stop: ptrace.Stop) -> Standing:
        registers = ptrace.registers(tid, NT_PRSTATUS)
        corrected = self._architecture.uninterrupted(registers)
        if tid in self._waited:
            corrected = self._again(tid, registers, *self._waited.pop(tid))
        if corrected is not None:
            ptrace.set_registers(tid, NT_PRSTATUS, corrected)
        return Standing(registers, 0 if stop.signal == ptrace.SIGTRAP else stop.signal)

    def _again(self, tid: int, registers: bytes, waited: proc.Call, switches: int) -> bytes | None:
        """Have a call made again that gives EINTR for no other reason than that the thread was stopped."""
        corrected = self._architecture.again(registers, waited)
        if corrected is None:
            return None
        status = proc.status(tid)
        # It may have been in another one meanwhile, and a signal that has come ends it rightly.  Since then
        # it has waited once more: for its tracer.
        pending = status.number("SigPnd", base=16) | status.number("ShdPnd", base=16)
        if status.number(_SWITCHES) != switches + 1 or pending & ~status.number("SigBlk", base=16):
            return None
        return corrected

    def _give_up(self, tid: int, seconds: float, patience: float) -> None:
        if seconds < patience:
            return
        with contextlib.suppress(OSError):
            waiting = proc.stat(tid).state == "D"
            if waiting or seconds > _LONGEST:
                raise Busy(self._why_not(tid, waiting))

    def _why_not(self, tid: int, waiting: bool) -> str:
        """Say why a thread does not stop: ``waiting`` if nothing but what it waits for can wake it."""
        if safety.is_frozen(self.pid):
            return f"process {self.pid} is frozen by its cgroup and cannot stop: thaw that first"
        thread = f"thread {tid} of process {self.pid}"
        if not waiting:
            return f"{thread} does not stop; {_AGAIN}"
        if self._waits_for_vfork(tid):
            return (
                f"{thread} waits until the child that it has made (vfork) executes a program or ends, and"
                " cannot stop before; the process runs on"
            )
        return f"{thread} waits for a device and cannot stop; {_AGAIN}"

    def _waits_for_vfork(self, tid: int) -> bool:
        """Whether a thread waits for a child that uses its memory."""
        found = proc.call(tid)
        if found is None:
            return False
        flags = found.arguments[0]
        if found.number == _CLONE3:
            with proc.memory(tid) as memory:
                flags = int.from_bytes(os.pread(memory, 8, flags), sys.byteorder)
        elif found.number != self._architecture.numbers["clone"]:
            return found.number == self._architecture.numbers.get("vfork")
        return bool(flags & _CLONE_VFORK)

    def release(self) -> None:
        """Let all that stand run on, and leave them alone."""
        for tid in self.standing:
            with contextlib.suppress(ProcessLookupError):
                ptrace.detach(tid)
        self.standing.clear()

    def leave(self) -> bool:
        """Leave alone also those that were asked to stop and have by now; whether none is left.

        One that does not yet cannot be left alone, and would stand when it does at last.
        """
        for tid in sorted(self._moving):
            stop = ptrace.wait(tid, now=True)
            if stop is not None:
                self._stopped(tid, stop)
        self.release()
        return not self._moving
