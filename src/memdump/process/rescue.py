"""What lets a borrowed thread find back by itself, should its tracer be killed while it is away.

When a tracer ends, the kernel lets its threads run on with whatever registers they have just then.  So a
thread is not sent to a system call alone: behind the call (``syscall; ret``) it finds a signal frame on its
stack, as if a handler had returned, and ``rt_sigreturn`` gives it back its registers, its floating point
state and its blocked signals.  As long as the tracer lives, it takes the thread back before that, and removes
the frames.

They stand below the red zone, where the kernel itself would put one, of a stack that is known to be one:
other memory might be somebody's.  Layouts: kernel, ``arch/x86/include/uapi/asm/sigcontext.h``,
``include/uapi/asm-generic/ucontext.h``; what is done with them: ``arch/x86/kernel/signal_64.c``,
``arch/x86/kernel/fpu/signal.c``.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from memdump.process import architecture, proc, ptrace
from memdump.process.architecture import NT_PRSTATUS, X86_64

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdump.process.inject import Instructions
    from memdump.process.maps import Mapping

_RED_ZONE = 128
_SPARE = 8 << 10
"""Bytes of the stack that have to stay free below the frames."""
_LARGEST = 20 << 10
"""Bytes of frames at most."""
_ALL_SIGNALS = (1 << 64) - 1
_NT_X86_XSTATE, _NT_X86_SHSTK = 0x202, 0x204
_NO_CHILD = (1 << 31) - 1
"""No process has this id, so waiting for it ends at once."""
_WALL = 0x40000000

_FRAME = struct.Struct("<Q QQ QiiQ 18Q 4H 4Q Q 8Q Q")
_ORDER = (9, 8, 7, 6, 3, 2, 1, 0, 14, 13, 4, 5, 12, 10, 11, 19, 16, 18)
"""The registers of a frame, by their positions in ``NT_PRSTATUS``."""
_FIRST_REGISTER = 48
_CS, _SS = 17, 20
_FLAGS = 0x6
"""``UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS``: the stack segment is restored as it stands here."""
_NO_STACK = 7
"""Flags of an alternate signal stack that the kernel refuses: the thread keeps the one that it has."""

_FEATURES, _PRESENT, _LEAST = 464, 512, 576
"""Where an ``NT_X86_XSTATE`` tells what the processor has, and what of it is used; its least size."""
_TILES, _TILES_SIZE = 1 << 18, 8192
"""AMX, which a program has to ask for: before that, its frames have no room for it."""
_MAGIC, _END_MAGIC = 0x46505853, 0x46505845

_RESTARTED = range(512, 515)
"""ERESTARTSYS, ERESTARTNOINTR and ERESTARTNOHAND (kernel, ``include/linux/errno.h``)."""
_RESTART_BLOCK = 516
_WAIT4, _RESTART_SYSCALL, _EXIT_GROUP = 61, 219, 231
_POLL, _NANOSLEEP, _FUTEX, _CLOCK_NANOSLEEP = 7, 35, 202, 230
"""The system calls that ``restart_syscall`` goes on with."""
TIMED = frozenset({_POLL, _NANOSLEEP, _FUTEX, _CLOCK_NANOSLEEP, _RESTART_SYSCALL})
"""Those that may wait for all of their time again if the thread has to find back."""
_ADDRESSES = range(1 << 12, 1 << 47)
_ORIGINAL = 15
"""Where the number of the call is in ``NT_PRSTATUS``."""


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


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


def floating_point(content: bytes) -> bytes | None:
    """Make of ``NT_X86_XSTATE`` what stands in a frame; None where it is not as it should be."""
    size = len(content)
    if size < _LEAST:
        return None
    features, present = (struct.unpack_from("<Q", content, at)[0] for at in (_FEATURES, _PRESENT))
    if features & _TILES & ~present:
        features &= ~_TILES
        size -= _TILES_SIZE
    if size < _LEAST:
        return None
    told = struct.pack("<IIQI28x", _MAGIC, size + 4, features, size)
    return content[:_FEATURES] + told + content[_PRESENT:size] + struct.pack("<I", _END_MAGIC)


def waits_in(tid: int) -> int | None:
    """Give the number of the system call that a thread waits in after the kernel has restarted it.

    The call is ``restart_syscall`` then, whatever it was before, and only the kernel's function that it waits
    in tells what that was.  This has to be asked before the thread is stopped.
    """
    if architecture.this() is not X86_64:
        return None
    call = proc.call(tid)
    if call is None or call.number != _RESTART_SYSCALL:
        return None
    place = proc.read_or_nothing(tid, "wchan")
    if b"futex" in place:
        return _FUTEX
    if b"poll" in place:
        return _POLL
    if place in (b"", b"0"):  # the kernel does not tell
        return None
    # There is nothing else but to sleep.  The first argument is an address, or the number of a clock.
    return _NANOSLEEP if call.arguments[0] in _ADDRESSES else _CLOCK_NANOSLEEP


def restarting(words: Sequence[int], waited_in: int | None) -> list[int]:
    """Give the registers with which a thread makes the system call again in which it was interrupted.

    After ``rt_sigreturn`` the kernel does not do that, and has forgotten how long a call was still to wait,
    so it waits anew.  ``waited_in`` is what `waits_in` told of the thread.
    """
    words = list(words)
    number, result = _signed(words[_ORIGINAL]), -_signed(words[X86_64.result])
    if number < 0 or (result not in _RESTARTED and result != _RESTART_BLOCK):
        return words
    if number == _RESTART_SYSCALL and waited_in is not None:
        number = waited_in
    words[X86_64.result] = number
    words[X86_64.pc] -= len(X86_64.instruction)
    return words


def begins_anew(registers: bytes) -> bool:
    """Whether the system call that a thread is in would have to begin anew, with all of its time."""
    return -X86_64.returned(registers) == _RESTART_BLOCK


def frames(words: Sequence[int], blocked: int, extended: bytes, instructions: Instructions) -> Frames:
    """Lay out the frames below the stack of a thread, which is to come back to these registers."""
    assert instructions.back is not None
    back = instructions.back
    top = (words[X86_64.sp] - _RED_ZONE) & -64
    floating = (top - len(extended)) & -64
    own = floating - _FRAME.size
    waiting, exiting = own - _FRAME.size, own - 2 * _FRAME.size
    wait = _calling(words, instructions.call, _WAIT4, (_NO_CHILD, 0, _WALL), own)
    leave = _calling(words, instructions.call, _EXIT_GROUP, (), own)
    return Frames(
        exiting,
        _frame(back, leave, _ALL_SIGNALS, 0)
        + _frame(back, wait, _ALL_SIGNALS, 0)
        + _frame(back, words, blocked, floating)
        + extended,
        own,
        waiting,
        waiting + _FIRST_REGISTER + 8 * _ORDER.index(X86_64.arguments[0]),
        exiting,
    )


def _calling(words: Sequence[int], at: int, number: int, arguments: Sequence[int], stack: int) -> list[int]:
    words = list(words)
    words[X86_64.pc], words[X86_64.number], words[X86_64.sp] = at, number, stack
    for position, index in enumerate(X86_64.arguments):
        words[index] = arguments[position] if position < len(arguments) else 0
    return words


def _frame(back: int, words: Sequence[int], blocked: int, floating: int) -> bytes:
    stack = (0, _NO_STACK, 0, 0)
    segments = (words[_CS], 0, 0, words[_SS])
    registers = (words[index] for index in _ORDER)
    return _FRAME.pack(
        back, _FLAGS | bool(floating), 0, *stack, *registers, *segments, *[0] * 4, floating, *[0] * 8, blocked
    )


def _has_shadow_stack(tid: int) -> bool:
    """Whether the processor checks where each function of a thread returns to."""
    try:
        ptrace.registers(tid, _NT_X86_SHSTK)
    except OSError:
        return False
    return True


class Rescue:
    """Frames that have been written below the stack of a thread that stands."""

    def __init__(self, tid: int, instructions: Instructions, waited_in: int | None) -> None:
        """Write them; raises ``OSError`` or ``ValueError`` where that cannot be, and has changed nothing."""
        extended = floating_point(ptrace.registers(tid, _NT_X86_XSTATE))
        if extended is None or _has_shadow_stack(tid):
            raise ValueError("no frame restores all of its registers")
        words = restarting(X86_64.unpack(ptrace.registers(tid, NT_PRSTATUS)), waited_in)
        self.frames = frames(words, ptrace.blocked(tid), extended, instructions)
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
