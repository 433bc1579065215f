"""Having a thread that stands make a system call, so that it never knows.

An instruction of the process's own is used (no code is written to its memory), and the call is made with all
signals blocked, so that no handler runs on registers that are not the program's.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from memdump.process import proc, ptrace
from memdump.process.architecture import NT_PRSTATUS, Behind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memdump.process.architecture import Architecture
    from memdump.process.maps import Mapping

_ALL_SIGNALS = (1 << 64) - 1
_SEARCHED = 32 << 20
"""Bytes in which instructions are looked for."""
_PIECE, _LONGEST = 1 << 20, 16
"""Bytes that are read at once; no instructions that are looked for are longer than the second."""
_RETURNING = {"x86_64": rb"\x0f\x05\xc3", "aarch64": rb"\x01\x00\x00\xd4\xc0\x03\x5f\xd6"}
"""The instruction for system calls, and a return."""
_GOING_BACK = {
    "x86_64": rb"(?:\xb8|\x48\xc7\xc0)\x0f\x00\x00\x00\x0f\x05",  # mov $15, %eax or %rax; syscall
    "aarch64": rb"\x68\x11\x80[\x52\xd2]\x01\x00\x00\xd4",  # mov w8 or x8, #139; svc #0
}
"""What makes the call ``rt_sigreturn``."""
_HEADER = 16
"""Bytes in front of the registers of SVE and SME (kernel, ``struct user_sve_header``)."""
_NO_CALL = -1
"""In place of the number of a call that is to be skipped."""
_STEPS = 1000
"""Stops on the way of one call: there are four, and one for each SIGSTOP that comes meanwhile."""
_PATIENCE, _LOOK = 0.25, 0.005
"""Seconds after which a thread is given up that sleeps on its way; seconds after which it is looked at."""

OF_COPY = ptrace.TRACE_SYSCALLS | ptrace.TRACE_KILL
"""The options of a copy, which must not outlive us."""


class Returned(NamedTuple):
    """What came of a call."""

    result: int
    """Negative for an error's number."""
    child: int | None
    """The process that it made."""


class Forced(OSError):
    """A thread could not make a call."""


class Instructions(NamedTuple):
    """Addresses of instructions of a process."""

    call: int
    """One for system calls."""
    back: int | None = None
    """Those that make the call ``rt_sigreturn``; where there are any, a return follows ``call``."""

    def behind(self, stack: int | None) -> Behind | None:
        """Tell what a thread finds behind a call, where a frame has been put for it at a stack pointer."""
        return None if stack is None or self.back is None else Behind(stack, self.back)


def find(mappings: Sequence[Mapping], memory: int, architecture: Architecture) -> Instructions | None:
    """Find instructions in the vDSO, in libc or in whatever is executable; this may take milliseconds.

    ``memory`` is an open ``/proc/PID/mem``.
    """
    call = returning = back = None
    for address, code in _executable(mappings, memory):

        def look(pattern: bytes, start: int = address, code: bytes = code) -> int | None:
            return _find(pattern, code, start, architecture)

        call = look(re.escape(architecture.instruction)) if call is None else call
        returning = look(_RETURNING[architecture.name]) if returning is None else returning
        back = look(_GOING_BACK[architecture.name]) if back is None else back
        if returning is not None and back is not None:
            return Instructions(returning, back)
    return Instructions(call) if call is not None else None


def are_there(instructions: Instructions, memory: int, architecture: Architecture) -> bool:
    """Whether instructions that were found once are still where they were."""
    wanted = {instructions.call: re.escape(architecture.instruction)}
    if instructions.back is not None:
        wanted = {instructions.call: _RETURNING[architecture.name]}
        wanted[instructions.back] = _GOING_BACK[architecture.name]
    try:
        return all(re.match(what, os.pread(memory, _LONGEST, at)) for at, what in wanted.items())
    except OSError:
        return False


def _executable(mappings: Sequence[Mapping], memory: int) -> Iterator[tuple[int, bytes]]:
    """Read what is executable, in pieces that overlap, the likely places first."""
    executable = [found for found in mappings if found.permissions[0] == "r" and found.permissions[2] == "x"]
    left = _SEARCHED
    # The vDSO always has one: it asks the kernel where it cannot answer itself.
    for found in sorted(executable, key=lambda one: (one.path != b"[vdso]", b"libc" not in one.path)):
        for start in range(found.start, found.end, _PIECE):
            if left <= 0:
                return
            with contextlib.suppress(OSError):
                code = os.pread(memory, min(found.end - start, _PIECE + _LONGEST), start)
                left -= len(code)
                yield start, code


def _find(pattern: bytes, code: bytes, start: int, architecture: Architecture) -> int | None:
    """Give the address of instructions in code that stands at ``start``."""
    alignment = 1 if architecture.name == "x86_64" else len(architecture.instruction)
    found = (match.start() for match in re.finditer(pattern, code))
    return next((start + at for at in found if at % alignment == 0), None)


def call(
    tid: int,
    architecture: Architecture,
    instructions: Instructions,
    name: str,
    arguments: Sequence[int] = (),
    stack: int | None = None,
    options: int = ptrace.TRACE_SYSCALLS,
) -> Returned:
    """Have a thread make a system call by an instruction of its process, and restore it exactly.

    ``options`` are those of `ptrace.set_options` that it has, and has again afterwards.  ``stack`` is the
    stack pointer that it has meanwhile, where a frame lets it find back: see `rescue`.  If memdump is killed
    the kernel lets it run on at any point of this, so it has to be right at any; for that its registers are
    changed before the signals that it blocks, and restored after them.

    The thread must stand for `ptrace.interrupt`, and does so again afterwards: only from there the kernel
    restarts the system call that it was in.  Raises ``OSError`` where the thread ends meanwhile, and
    ``TimeoutError`` where its cgroup is frozen before it comes to the call, and `Forced`; what it made is
    ended then.
    """
    registers, blocked = ptrace.registers(tid, NT_PRSTATUS), ptrace.blocked(tid)
    stops = _Stops(tid)
    try:
        ptrace.set_options(tid, options | ptrace.TRACE_CLONE)
        behind = instructions.behind(stack)
        if stands_at_call(tid, architecture, registers):
            result, registers = _exchange(stops, architecture, name, arguments, behind)
        else:
            calling = architecture.calling(registers, instructions.call, name, arguments, behind)
            result = _jump(stops, architecture, calling)
        return Returned(result, stops.child)
    except OSError:
        with contextlib.suppress(OSError):
            stops.to_stop()
        if stops.child is not None:
            end(stops.child)
        raise
    finally:
        # Where the thread is gone there is nothing to restore.
        with contextlib.suppress(ProcessLookupError):
            ptrace.set_options(tid, options)
            ptrace.set_blocked(tid, blocked)
            ptrace.set_registers(tid, NT_PRSTATUS, registers)


def stands_at_call(tid: int, architecture: Architecture, registers: bytes) -> bool:
    """Whether a thread is about to make a system call, or to make one again, that can be exchanged."""
    if architecture.exchange is None or architecture.of(registers) is not architecture:
        return False
    at, instruction = architecture.unpack(registers)[architecture.pc], architecture.instruction
    with contextlib.suppress(OSError), proc.memory(tid) as memory:
        return os.pread(memory, len(instruction), at) == instruction
    return False


def _jump(stops: _Stops, architecture: Architecture, calling: bytes) -> int:
    """Have a thread make a system call somewhere else, with these registers; gives what it returned."""
    tid = stops.tid
    lost = {kind: _content(tid, kind) for kind in architecture.lost}
    ptrace.set_registers(tid, NT_PRSTATUS, calling)
    ptrace.set_blocked(tid, _ALL_SIGNALS)
    stops.to_call()  # it enters the call
    stops.to_call()  # it leaves it
    result = architecture.returned(ptrace.registers(tid, NT_PRSTATUS))
    stops.to_stop()
    for kind, content in lost.items():
        if content and content != _content(tid, kind):
            ptrace.set_registers(tid, kind, content)
    return result


def _content(tid: int, kind: int) -> bytes:
    """Give a set of registers that has a header, or nothing where there is nothing else in it."""
    try:
        content = ptrace.registers(tid, kind)
    except OSError:
        return b""
    return content if len(content) > _HEADER else b""


def _exchange(
    stops: _Stops, architecture: Architecture, name: str, arguments: Sequence[int], behind: Behind | None
) -> tuple[int, bytes]:
    """Have a thread make another system call in place of the one that it is about to make.

    Only so one can be made again that goes on where it was interrupted (a sleep for the rest of its time):
    the kernel prepares it, with another number, when the thread leaves its stop for this very call.  Behind
    the other one the thread looks as if it had been interrupted in its own.  Gives what the other one
    returned, and the registers from which the thread makes its own again.
    """
    tid = stops.tid
    if behind is None:
        ptrace.set_blocked(tid, _ALL_SIGNALS)
        stops.to_call()
        entered = ptrace.registers(tid, NT_PRSTATUS)
        _exchange_number(tid, architecture, architecture.numbers[name])
        ptrace.set_registers(tid, NT_PRSTATUS, architecture.with_arguments(entered, arguments))
    else:
        entered = _enter(stops, architecture, behind)
        there = architecture.with_arguments(_at(architecture, entered, behind), arguments)
        ptrace.set_registers(tid, NT_PRSTATUS, there)
        _exchange_number(tid, architecture, architecture.numbers[name])
    stops.to_call()
    result = architecture.returned(ptrace.registers(tid, NT_PRSTATUS))
    left = architecture.interrupted(entered)
    if behind is not None:
        left = _going_back(architecture, left, behind)
    ptrace.set_registers(tid, NT_PRSTATUS, left)
    stops.to_stop()
    # The kernel takes the first argument of the other one for that of its own.
    words, before = architecture.unpack(ptrace.registers(tid, NT_PRSTATUS)), architecture.unpack(entered)
    for changed in (architecture.arguments[0], architecture.number, architecture.sp):
        words[changed] = before[changed]
    return result, architecture.pack(words)


def _enter(stops: _Stops, architecture: Architecture, behind: Behind) -> bytes:
    """Bring a thread into its system call so that it finds back from there; gives its registers in it.

    It makes the call ``rt_sigreturn`` in place of its own.  Where the kernel may go on with its own, which
    only a thread with its own registers can do, that is skipped in the end; should memdump be killed just
    before, it is made twice, which does not matter for one that waits for nothing but time or a change of
    memory.
    """
    tid = stops.tid
    own = ptrace.registers(tid, NT_PRSTATUS)
    words = architecture.unpack(own)
    if words[architecture.number] in architecture.timed:
        stops.to_call(open_to_signals=True)
        entered = ptrace.registers(tid, NT_PRSTATUS)
        ptrace.set_registers(tid, NT_PRSTATUS, _at(architecture, entered, behind))
        ptrace.set_blocked(tid, _ALL_SIGNALS)
        _exchange_number(tid, architecture, _NO_CALL)
        return entered
    ptrace.set_registers(tid, NT_PRSTATUS, _going_back(architecture, own, behind))
    ptrace.set_blocked(tid, _ALL_SIGNALS)
    stops.to_call()
    words[architecture.pc] += len(architecture.instruction)
    return architecture.pack(words)


def _going_back(architecture: Architecture, registers: bytes, behind: Behind) -> bytes:
    """Give the registers of a thread that finds back with the system call that it is about to make."""
    words = architecture.unpack(registers)
    words[architecture.number], words[architecture.sp] = architecture.numbers["rt_sigreturn"], behind.stack
    return architecture.pack(words)


def _at(architecture: Architecture, registers: bytes, behind: Behind) -> bytes:
    """Give the registers of a thread in a system call behind which it finds back."""
    words = architecture.unpack(registers)
    words[architecture.pc], words[architecture.sp] = behind.back, behind.stack
    return architecture.pack(words)


def _exchange_number(tid: int, architecture: Architecture, number: int) -> None:
    assert architecture.exchange is not None
    ptrace.set_registers(tid, architecture.exchange, struct.pack("=i", number))


class _Stops:
    """Follows a thread from stop to stop."""

    def __init__(self, tid: int) -> None:
        self.child: int | None = None
        self._signal = 0
        """A SIGSTOP that it stands for, which nothing can block.  Given back, SIGCONT can undo it."""
        self._stands = True
        self.tid = tid

    def to_call(self, *, open_to_signals: bool = False) -> None:
        """Let it run until it enters or leaves the system call.

        One that is ``open_to_signals`` blocks none but its own; should any come, it is put off.
        """
        for _ in range(_STEPS):
            ptrace.to_call(self.tid, self._signal)
            self._stands = False
            if self._wait(_PATIENCE, open_to_signals).at_call:
                return
        raise TimeoutError(f"thread {self.tid} does not come to its system call")

    def to_stop(self) -> None:
        """Let it come to where it stands for `ptrace.interrupt`, before it executes anything."""
        ptrace.interrupt(self.tid)
        for _ in range(_STEPS):
            if self._stands:
                ptrace.cont(self.tid, self._signal)
            if self._wait().for_us:
                return
        raise TimeoutError(f"thread {self.tid} does not stop")

    def _wait(self, patience: float | None = None, open_to_signals: bool = False) -> ptrace.Stop:
        start = time.monotonic()
        while (stop := ptrace.wait(self.tid, now=True)) is None:
            signal.sigtimedwait([signal.SIGCHLD], _LOOK)
            # Nothing that it does on its way sleeps, unless its cgroup has been frozen.
            if patience and time.monotonic() - start > patience and proc.stat(self.tid).state == "S":
                raise TimeoutError(f"thread {self.tid} does not come to its system call: it sleeps")
        if stop.ended:
            raise ProcessLookupError(f"thread {self.tid} has ended")
        self._stands = True
        self._signal = 0
        if stop.event == ptrace.EVENT_CLONE:
            self.child = adopt(ptrace.event_message(self.tid))
        elif stop.signal == signal.SIGSTOP and not stop.for_us:
            self._signal = signal.SIGSTOP
        elif open_to_signals and not (stop.at_call or stop.for_us):
            # One that it blocks by the time it would get it the kernel keeps, with all that belongs to it.
            ptrace.set_blocked(self.tid, _ALL_SIGNALS)
            self._signal = stop.signal
        elif not (stop.at_call or stop.for_us):
            # The kernel forces it upon a thread that blocks all for what we have it do, not for its own.
            raise Forced(f"thread {self.tid} cannot make a system call: {signal.Signals(stop.signal).name}")
        return stop


def adopt(child: int) -> int:
    """Make sure that a process that was just made, and stands before its first instruction, dies with us."""
    ptrace.wait(child)
    ptrace.set_options(child, OF_COPY)
    return child


def end(child: int) -> None:
    """End a process that is ours, and tell its parent, which has to wait for it then."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    bury(child)


def bury(child: int) -> None:
    """Tell the parent of a process that is ours, and was killed; nothing where that has been done."""
    while not (ptrace.wait(child) or ptrace.Stop(ended=True)).ended:
        pass
