"""Having a thread that stands make a system call, so that it never knows.

An instruction of the process's own is used (nothing is written to its memory), and the call is made with all
signals blocked, so that no handler runs on registers that are not the program's.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, NamedTuple

from memdump.process import ptrace
from memdump.process.architecture import NT_PRSTATUS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdump.process.architecture import Architecture
    from memdump.process.maps import Mapping

_ALL_SIGNALS = (1 << 64) - 1
_SEARCHED = 4 << 20
"""Bytes of a mapping in which the instruction is looked for."""
_STEPS = 1000
"""Stops on the way of one call: there are four, and one for each SIGSTOP that comes meanwhile."""


class Returned(NamedTuple):
    """What came of a call."""

    result: int
    """Negative for an error's number."""
    child: int | None
    """The process that it made."""


def find_instruction(mappings: Sequence[Mapping], memory: int, architecture: Architecture) -> int | None:
    """Find the address of an instruction for system calls, in the vDSO or in whatever is executable.

    ``memory`` is an open ``/proc/PID/mem``.
    """
    executable = [found for found in mappings if found.permissions[0] == "r" and found.permissions[2] == "x"]
    # The vDSO always has one: it asks the kernel where it cannot answer itself.
    for found in sorted(executable, key=lambda one: one.path != b"[vdso]"):
        with contextlib.suppress(OSError):
            code = os.pread(memory, min(found.size, _SEARCHED), found.start)
            at = code.find(architecture.instruction)
            while at % _alignment(architecture) and at >= 0:
                at = code.find(architecture.instruction, at + 1)
            if at >= 0:
                return found.start + at
    return None


def _alignment(architecture: Architecture) -> int:
    return 1 if architecture.name == "x86_64" else len(architecture.instruction)


def call(tid: int, architecture: Architecture, at: int, name: str, arguments: Sequence[int] = ()) -> Returned:
    """Have a thread make a system call by the instruction ``at``, and restore it exactly.

    The thread must stand for `ptrace.interrupt`, and does so again afterwards: only from there the kernel
    restarts the system call that it was in.  Raises ``OSError`` where the thread ends meanwhile.
    """
    registers, blocked = ptrace.registers(tid, NT_PRSTATUS), ptrace.blocked(tid)
    stops = _Stops(tid)
    try:
        ptrace.set_blocked(tid, _ALL_SIGNALS)
        ptrace.set_options(tid, ptrace.TRACE_SYSCALLS | ptrace.TRACE_CLONE)
        ptrace.set_registers(tid, NT_PRSTATUS, architecture.calling(registers, at, name, arguments))
        stops.to_call()  # it enters the call
        stops.to_call()  # it leaves it
        result = architecture.returned(ptrace.registers(tid, NT_PRSTATUS))
        stops.to_stop()
        return Returned(result, stops.child)
    finally:
        # Where the thread is gone there is nothing to restore.
        with contextlib.suppress(ProcessLookupError):
            ptrace.set_registers(tid, NT_PRSTATUS, registers)
            ptrace.set_blocked(tid, blocked)
            ptrace.set_options(tid, ptrace.TRACE_SYSCALLS)
        if stops.to_be_stopped:
            os.kill(tid, signal.SIGSTOP)


class _Stops:
    """Follows a thread from stop to stop."""

    def __init__(self, tid: int) -> None:
        self.child: int | None = None
        self.to_be_stopped = False
        """Whether a SIGSTOP came, which nothing can block, and which has to come again."""
        self._tid = tid

    def to_call(self) -> None:
        """Let it run until it enters or leaves the system call."""
        for _ in range(_STEPS):
            ptrace.to_call(self._tid)
            stop = self._wait()
            if stop.at_call:
                return
            if stop.event == ptrace.EVENT_CLONE:
                self.child = adopt(ptrace.event_message(self._tid))
            elif not stop.for_us:
                self.to_be_stopped = True
        raise TimeoutError(f"thread {self._tid} does not come to its system call")

    def to_stop(self) -> None:
        """Let it come to where it stands for `ptrace.interrupt`, before it executes anything."""
        ptrace.interrupt(self._tid)
        for _ in range(_STEPS):
            ptrace.cont(self._tid)
            if self._wait().for_us:
                return
            self.to_be_stopped = True
        raise TimeoutError(f"thread {self._tid} does not stop")

    def _wait(self) -> ptrace.Stop:
        stop = ptrace.wait(self._tid)
        if stop is None or stop.ended:
            raise ProcessLookupError(f"thread {self._tid} has ended")
        return stop


def adopt(child: int) -> int:
    """Make sure that a process that was just made, and stands before its first instruction, dies with us."""
    ptrace.wait(child)
    ptrace.set_options(child, ptrace.TRACE_SYSCALLS | ptrace.TRACE_KILL)
    return child
