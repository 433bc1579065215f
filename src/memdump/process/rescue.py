"""What lets a borrowed thread find back by itself, should its tracer be killed while it is away.

When a tracer ends, the kernel lets its threads run on with whatever registers they have just then.  So a
thread is not sent to a system call alone: behind the call it finds a signal frame, as if a handler had
returned, and ``rt_sigreturn`` gives it back its registers, its floating point state and its blocked signals.
As long as the tracer lives, it takes the thread back before that, and removes the frames.

They stand below the red zone of its stack, where the kernel itself would put one, if that is known to be
one: other memory might be somebody's.  Else they stand where the main stack is not in use.
"""

from __future__ import annotations

import bisect
import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple, Protocol

from memdump.machine.host import PAGE_SIZE
from memdump.process import architecture, inject, proc, ptrace, sigframe_aarch64, sigframe_x86_64
from memdump.process.architecture import NT_PRSTATUS, Behind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdump.process.architecture import Architecture
    from memdump.process.inject import Instructions
    from memdump.process.maps import Mapping


class _Sigframe(Protocol):
    """What differs between processors."""

    FIRST_ARGUMENT: int

    def extended(self, tid: int) -> bytes: ...
    def frame(
        self, top: int, back: int, words: Sequence[int], blocked: int, state: bytes = ...
    ) -> tuple[int, bytes]: ...


_RED_ZONE = 128
_SPARE = 8 << 10
"""Bytes of the stack that have to stay free below the frames."""
_LARGEST = 20 << 10
"""Bytes of frames at most."""
_ALL_SIGNALS = (1 << 64) - 1
_NO_CHILD = (1 << 31) - 1
"""No process has this id, so waiting for it ends at once."""
_WALL = 0x40000000
_SIGFRAMES: dict[str, _Sigframe] = {"x86_64": sigframe_x86_64, "aarch64": sigframe_aarch64}

_RESTARTED = range(512, 515)
"""ERESTARTSYS, ERESTARTNOINTR and ERESTARTNOHAND (kernel, ``include/linux/errno.h``)."""
_RESTART_BLOCK = 516
_ADDRESSES = range(1 << 12, 1 << 47)


class Frames(NamedTuple):
    """Frames as they are to be written."""

    start: int
    content: bytes
    stack: int
    """The stack pointer for a system call, behind which the thread is to be itself again."""
    waiting: int
    """The stack pointer for one that makes a child, for which the thread is to wait before."""
    pid: int
    """Where the id of that child is to be written."""
    child: int
    """The stack pointer for a copy that is to end at once if nobody holds it."""


def has_room(mappings: Sequence[Mapping], stack: int) -> bool:
    """Whether below a stack pointer there is nothing but the rest of that stack, and enough of it.

    A stack is one that the kernel calls so, or has a guard right below it.  Those of coroutines in memory of
    which other parts are in use have neither.
    """
    at = bisect.bisect_right([found.start for found in mappings], stack) - 1
    if at < 0 or mappings[at].end <= stack or mappings[at].permissions != "rw-p":
        return False
    found = mappings[at]
    guarded = at > 0 and mappings[at - 1].end == found.start and mappings[at - 1].permissions[:3] == "---"
    return (found.path == b"[stack]" or guarded) and stack - _RED_ZONE - _LARGEST - _SPARE >= found.start


def unused(mappings: Sequence[Mapping], tid: int, stacks: Sequence[int]) -> int | None:
    """Give a stack pointer below which the main stack is not in use, if there is such a place.

    That is at the lower end of what the kernel has set aside for it, if it is empty there and none of the
    stack pointers is near.  After a kill, what stands there leaves no such place.
    """
    size = -(-(_RED_ZONE + _LARGEST + _SPARE) // PAGE_SIZE) * PAGE_SIZE
    for found in mappings:
        if found.path == b"[stack]" and found.permissions == "rw-p" and found.size >= 2 * size:
            top = found.start + size
            used = any(found.start <= stack < top + size for stack in stacks)
            empty = proc.read_at(tid, "mem", found.start, size) == bytes(size)
            return top if empty and not used else None
    return None


def waits_in(tid: int) -> int | None:
    """Give the number of the system call that a thread waits in, for some time.

    After the kernel has restarted it, it is ``restart_syscall``, whatever it was before, and only the
    function of the kernel that it waits in tells what that was.  This has to be asked before the thread is
    stopped.
    """
    call, known = proc.call(tid), architecture.this()
    numbers = known.numbers
    if call is None or call.number not in known.timed:
        return None
    if call.number != numbers["restart_syscall"]:
        return call.number
    place = proc.read_or_nothing(tid, "wchan")
    if b"futex" in place:
        return numbers["futex"]
    if b"poll" in place:
        return numbers.get("poll")
    if place in (b"", b"0"):  # the kernel does not tell
        return None
    # There is nothing else but to sleep.  The first argument is an address, or the number of a clock.
    return numbers["nanosleep" if call.arguments[0] in _ADDRESSES else "clock_nanosleep"]


def restarting(known: Architecture, words: Sequence[int], waited_in: int | None) -> list[int]:
    """Give the registers with which a thread makes the system call again in which it was interrupted.

    After ``rt_sigreturn`` the kernel does not do that, and has forgotten how long a call was still to wait,
    so it waits anew.  ``waited_in`` is what `waits_in` told of the thread, which is in that call still.
    """
    words, restart = list(words), known.numbers["restart_syscall"]
    if known.original is None:  # the kernel has prepared the rest
        if words[known.number] == restart and waited_in is not None:
            words[known.number] = waited_in
        return words
    number, result = known.signed(words[known.original]), -known.signed(words[known.result])
    if number < 0 or (result not in _RESTARTED and result != _RESTART_BLOCK):
        return words
    if number == restart and waited_in is not None:
        number = waited_in
    words[known.result] = number
    words[known.pc] -= len(known.instruction)
    return words


def begins_anew(known: Architecture, registers: bytes) -> bool:
    """Whether the system call that a thread is in would have to begin anew, with all of its time."""
    if known.original is None:
        return known.unpack(registers)[known.number] in known.timed
    return -known.returned(registers) == _RESTART_BLOCK


def frames(
    known: Architecture,
    words: Sequence[int],
    blocked: int,
    state: bytes,
    instructions: Instructions,
    stack: int,
) -> Frames:
    """Lay out the frames below a stack pointer, for a thread that is to come back to these registers."""
    assert instructions.back is not None
    form, back = _SIGFRAMES[known.name], instructions.back
    own, content = form.frame((stack - _RED_ZONE) & -64, back, words, blocked, state)
    behind = Behind(own, back)

    def calling(top: int, name: str, *arguments: int) -> tuple[int, bytes]:
        registers = known.calling(known.pack(words), instructions.call, name, arguments, behind)
        return form.frame(top, back, known.unpack(registers), _ALL_SIGNALS)

    waiting, wait = calling(own, "wait4", _NO_CHILD, 0, _WALL)
    exiting, leave = calling(waiting, "exit_group")
    return Frames(exiting, leave + wait + content, own, waiting, waiting + form.FIRST_ARGUMENT, exiting)


class Rescue:
    """Frames that have been written below the stack of a thread that stands."""

    def __init__(
        self, tid: int, known: Architecture, instructions: Instructions, waited_in: int | None, stack: int
    ) -> None:
        """Write them below a stack pointer, its own or another one.

        Raises ``OSError`` or ``ValueError`` where that cannot be, and has changed nothing.
        """
        state, registers = _SIGFRAMES[known.name].extended(tid), ptrace.registers(tid, NT_PRSTATUS)
        if known.original is None and not inject.stands_at_call(tid, known, registers):
            waited_in = None
        words = restarting(known, known.unpack(registers), waited_in)
        self.frames = frames(known, words, ptrace.blocked(tid), state, instructions, stack)
        self._memory = os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._saved = self._write()
        except (OSError, ValueError):
            os.close(self._memory)
            raise

    def _write(self) -> bytes:
        """Write the frames, and give what was there before."""
        start, content = self.frames.start, self.frames.content
        saved = os.pread(self._memory, len(content), start)
        if len(saved) != len(content) or len(saved) > _LARGEST:
            raise ValueError("its stack has no room")
        written = os.pwrite(self._memory, content, start)
        if written != len(content):
            os.pwrite(self._memory, saved[:written], start)
            raise ValueError("its stack cannot be written to")
        return saved

    def remove(self) -> None:
        """Write back what was there before."""
        with contextlib.suppress(OSError):
            os.pwrite(self._memory, self._saved, self.frames.start)
        os.close(self._memory)

    def remove_from(self, copy: int) -> None:
        """Do the same in a copy of the process, which was made before."""
        with contextlib.suppress(OSError), proc.memory(copy, os.O_RDWR) as memory:
            os.pwrite(memory, self._saved, self.frames.start)
