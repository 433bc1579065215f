"""What differs between processors: registers, the instruction of a system call, numbers."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NT_PRSTATUS, NT_FPREGSET = 1, 2
_EINTR = 4
_ERESTARTNOHAND = 514
"""Of the kernel alone (``include/linux/errno.h``): make EINTR of it for a handler, else call again."""
_INTERRUPTED_FOR_GOOD = "epoll_wait epoll_pwait epoll_pwait2 semop semtimedop rt_sigtimedwait io_getevents"
_OF_SOCKETS = "read write readv writev accept accept4 recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg"
_RESTARTABLE = f"{_INTERRUPTED_FOR_GOOD} io_pgetevents io_uring_enter {_OF_SOCKETS}".split()
"""System calls that give EINTR when a tracer stops them, not only for a handler's sake (``signal(7)``).

Sockets do so only where they have a timeout.  None has had any effect when it gives EINTR.
"""


class Architecture(NamedTuple):
    """The facts of one processor; registers are 64-bit words, counted from 0 as ``NT_PRSTATUS`` has them."""

    name: str
    """As ``uname -m`` says it."""
    elf_machine: int
    instruction: bytes
    """The one that makes a system call."""
    words: int
    """How many registers there are."""
    pc: int
    sp: int
    number: int
    """Where the number of a system call is."""
    result: int
    arguments: tuple[int, ...]
    original: int | None
    """Where the number stays while the call runs; it is negative outside of one.  None: not among them."""
    numbers: Mapping[str, int]
    """The numbers of the system calls that are used or asked for here."""
    more: tuple[tuple[int, str], ...]
    """The other sets of registers: type and owner of the note, the type being the set's for ptrace too."""

    def unpack(self, registers: bytes) -> list[int]:
        """Make words of the bytes of ``NT_PRSTATUS``'s registers."""
        return list(struct.unpack(f"={self.words}Q", registers))

    def pack(self, words: Sequence[int]) -> bytes:
        """Make bytes of words; negative ones are meant as the processor means them."""
        return struct.pack(f"={self.words}Q", *(word & (1 << 64) - 1 for word in words))

    def in_call(self, registers: bytes) -> bool:
        """Whether the thread was stopped inside a system call, as far as its registers tell."""
        return self.original is not None and signed(self.unpack(registers)[self.original]) >= 0

    def calling(self, registers: bytes, at: int, name: str, arguments: Sequence[int]) -> bytes:
        """Give the registers with which a thread makes a system call by the instruction at ``at``."""
        words = self.unpack(registers)
        words[self.pc] = at
        words[self.number] = self.numbers[name]
        if self.original is not None:
            words[self.original] = -1  # nothing to restart while this one is made
        for position, index in enumerate(self.arguments):
            words[index] = arguments[position] if position < len(arguments) else 0
        return self.pack(words)

    def returned(self, registers: bytes) -> int:
        """Give what a system call returned: negative for an error's number."""
        return signed(self.unpack(registers)[self.result])

    def uninterrupted(self, registers: bytes) -> bytes | None:
        """Correct a system call that gives EINTR for no other reason than that the thread was stopped.

        Gives the registers with which the kernel calls it again, or returns EINTR if a handler has to run;
        None where there is nothing to correct.
        """
        words = self.unpack(registers)
        if self.original is None or signed(words[self.result]) != -_EINTR:
            return None
        if words[self.original] not in restartable(self):
            return None
        words[self.result] = -_ERESTARTNOHAND
        return self.pack(words)


def signed(word: int) -> int:
    """Read a word as a number with a sign."""
    return word - (1 << 64) if word >> 63 else word


def restartable(architecture: Architecture) -> frozenset[int]:
    """Give the numbers of the system calls that `Architecture.uninterrupted` corrects."""
    numbers = architecture.numbers
    return frozenset(numbers[name] for name in _RESTARTABLE if name in numbers)


def _numbers(text: str) -> dict[str, int]:
    words = text.split()
    return {words[index]: int(words[index + 1]) for index in range(0, len(words), 2)}


# Registers: kernel, arch/x86/include/asm/user_64.h; numbers: arch/x86/entry/syscalls/syscall_64.tbl.
X86_64 = Architecture(
    name="x86_64",
    elf_machine=62,
    instruction=b"\x0f\x05",
    words=27,
    pc=16,
    sp=19,
    number=10,
    result=10,
    arguments=(14, 13, 12, 7, 9, 8),
    original=15,
    numbers=_numbers(
        "read 0 write 1 readv 19 writev 20 accept 43 sendto 44 recvfrom 45 sendmsg 46 recvmsg 47 clone 56"
        " wait4 61 semop 65 rt_sigtimedwait 128 io_getevents 208 semtimedop 220 epoll_wait 232"
        " epoll_pwait 281 accept4 288 recvmmsg 299 sendmmsg 307 io_pgetevents 333 io_uring_enter 426"
        " close_range 436 epoll_pwait2 441"
    ),
    more=((NT_FPREGSET, "CORE"), (0x202, "LINUX")),  # NT_X86_XSTATE
)
# Registers: kernel, arch/arm64/include/uapi/asm/ptrace.h; numbers: include/uapi/asm-generic/unistd.h.
AARCH64 = Architecture(
    name="aarch64",
    elf_machine=183,
    instruction=b"\x01\x00\x00\xd4",  # svc #0
    words=34,
    pc=32,
    sp=31,
    number=8,
    result=0,
    arguments=(0, 1, 2, 3, 4, 5),
    # The kernel prepares the call again before a tracer sees the thread (arch/arm64/kernel/signal.c).
    original=None,
    numbers=_numbers("clone 220 wait4 260 close_range 436"),
    more=((NT_FPREGSET, "CORE"), (0x401, "LINUX")),  # NT_ARM_TLS
)


def this() -> Architecture:
    """Give the architecture of this machine; raises `UsageError` where memdump does not know it."""
    name = os.uname().machine
    for architecture in (X86_64, AARCH64):
        if architecture.name == name:
            return architecture
    raise UsageError(f"memdump takes processes on x86_64 and aarch64 only, and this machine is {name}")
