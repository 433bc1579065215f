"""What differs between processors: registers, the instruction of a system call, numbers."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memdump.process.proc import Call

NT_PRSTATUS, NT_FPREGSET, NT_ARM_SVE, NT_ARM_SSVE = 1, 2, 0x405, 0x40B
_LONG = 64
_EINTR = 4
_ERESTARTSYS, _ERESTARTNOHAND = 512, 514
"""Of the kernel alone (``include/linux/errno.h``): call again, but make EINTR of it for a handler; of the
first one only where the handler does not ask for the contrary (``SA_RESTART``)."""
_INTERRUPTED_FOR_GOOD = "epoll_wait epoll_pwait epoll_pwait2 semop semtimedop rt_sigtimedwait io_getevents"
_OF_SOCKETS = (
    "read write readv writev accept accept4 connect recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg"
    " sendfile splice"
)
_OF_32_BITS = (
    "ipc socketcall sendfile64 semtimedop_time64 rt_sigtimedwait_time64 recvmmsg_time64 io_pgetevents_time64"
)
_RESTARTABLE = f"{_INTERRUPTED_FOR_GOOD} io_pgetevents io_uring_enter {_OF_SOCKETS} {_OF_32_BITS}".split()
"""System calls that give EINTR when a tracer stops them, not only for a handler's sake (``signal(7)``).

Sockets do so only where they have a timeout; else the kernel itself calls again.  None has had any effect
when it gives EINTR but ``connect``, which goes on connecting, and called again waits for that
(``net/ipv4/af_inet.c``).
"""
_WAITING = "pselect6 ppoll nanosleep clock_nanosleep restart_syscall rt_sigsuspend msgrcv msgsnd"
_UNTIL_A_HANDLER = f"{_WAITING} {_INTERRUPTED_FOR_GOOD}".split()
"""System calls that any handler ends, whatever it asks for (``signal(7)``)."""
_TIMED = ("poll", "nanosleep", "futex", "clock_nanosleep", "restart_syscall")
"""System calls that ``restart_syscall`` goes on with, the rest of their time."""


class Behind(NamedTuple):
    """What a thread finds behind a system call and a return."""

    stack: int
    """The stack pointer: a signal frame is there, below the address of the return if that is on the stack."""
    back: int
    """The address that it returns to: instructions that make the call ``rt_sigreturn``."""


class Architecture(NamedTuple):
    """The facts of one processor; registers are words, counted from 0 as ``NT_PRSTATUS`` has them."""

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
    bits: int = 64
    """Of a word."""
    link: int | None = None
    """Where the address is that a function returns to.  None: on the stack."""
    narrow: Architecture | None = None
    """What it is for programs of 32 bits, whose registers the kernel gives in a form of their own."""
    exchange: int | None = None
    """The set in which the number of a system call can be exchanged that a thread enters; see `inject`."""
    lost: tuple[int, ...] = ()
    """Sets of registers that a system call need not preserve."""
    branch: tuple[int, int] = (0, 0)
    """A register and the bits of it that say how the thread came to its instruction, which may forbid it."""

    def of(self, registers: bytes) -> Architecture:
        """Tell by the size of its registers what a thread executes."""
        if self.narrow is not None and len(registers) == self.narrow.words * self.narrow.bits // 8:
            return self.narrow
        return self

    def unpack(self, registers: bytes) -> list[int]:
        """Make words of the bytes of ``NT_PRSTATUS``'s registers."""
        return list(struct.unpack(self._form, registers))

    def pack(self, words: Sequence[int]) -> bytes:
        """Make bytes of words; negative ones are meant as the processor means them."""
        return struct.pack(self._form, *(word & (1 << self.bits) - 1 for word in words))

    @property
    def _form(self) -> str:
        return f"={self.words}{'Q' if self.bits == _LONG else 'I'}"

    def signed(self, word: int) -> int:
        """Read a word as a number with a sign."""
        return word - (1 << self.bits) if word >> self.bits - 1 else word

    def in_call(self, registers: bytes) -> bool:
        """Whether the thread was stopped inside a system call, as far as its registers tell."""
        known = self.of(registers)
        return known.original is not None and known.signed(known.unpack(registers)[known.original]) >= 0

    @property
    def begin_anew(self) -> frozenset[int]:
        """The numbers of the system calls that wait for all of their time again when they are made again."""
        return self.numbers_of(_INTERRUPTED_FOR_GOOD.split())

    @property
    def timed(self) -> frozenset[int]:
        """The numbers of the system calls of which the kernel remembers how long they have still to wait."""
        return self.numbers_of(_TIMED)

    def numbers_of(self, names: Sequence[str]) -> frozenset[int]:
        """Give the numbers of those of the calls that it has."""
        return frozenset(self.numbers[name] for name in names if name in self.numbers)

    def calling(
        self, registers: bytes, at: int, name: str, arguments: Sequence[int], behind: Behind | None = None
    ) -> bytes:
        """Give the registers with which a thread makes a system call by the instruction at ``at``.

        Those are its own otherwise, but for what it is to find ``behind`` the call.
        """
        words = self.unpack(registers)
        words[self.pc] = at
        words[self.number] = self.numbers[name]
        if self.original is not None:
            words[self.original] = -1  # nothing to restart while this one is made
        register, bits = self.branch
        words[register] &= ~bits
        if behind is not None:
            words[self.sp] = behind.stack
            if self.link is not None:
                words[self.link] = behind.back
        return self.with_arguments(self.pack(words), arguments)

    def with_arguments(self, registers: bytes, arguments: Sequence[int]) -> bytes:
        """Give the registers with the arguments of a system call in them."""
        words = self.unpack(registers)
        for position, index in enumerate(self.arguments):
            words[index] = arguments[position] if position < len(arguments) else 0
        return self.pack(words)

    def interrupted(self, entered: bytes) -> bytes:
        """Give the registers with which a thread leaves a call that it entered so, and that is made again."""
        words = self.unpack(entered)
        ends = words[self.number] in self.numbers_of(_UNTIL_A_HANDLER)
        words[self.result] = -_ERESTARTNOHAND if ends else -_ERESTARTSYS
        return self.pack(words)

    def returned(self, registers: bytes) -> int:
        """Give what a system call returned: negative for an error's number."""
        return self.signed(self.unpack(registers)[self.result])

    def uninterrupted(self, registers: bytes) -> bytes | None:
        """Correct a system call that gives EINTR for no other reason than that the thread was stopped.

        Gives the registers with which the kernel calls it again, or returns EINTR if a handler has to run;
        None where there is nothing to correct.
        """
        known = self.of(registers)
        words = known.unpack(registers)
        if known.original is None or known.signed(words[known.result]) != -_EINTR:
            return None
        number = words[known.original]
        if number not in restartable(known):
            return None
        words[known.result] = -_ERESTARTNOHAND
        return known.pack(words)

    def again(self, registers: bytes, before: Call) -> bytes | None:
        """Do the same where the kernel has forgotten by now that the thread was in a system call.

        What it waited in ``before`` it was stopped tells; None where that cannot be the call that gave EINTR.
        """
        if self.of(registers) is not self:
            return None
        words = self.unpack(registers)
        if self.signed(words[self.result]) != -_EINTR or before.number not in restartable(self):
            return None
        left = (words[self.number], words[self.sp], words[self.pc], *(words[at] for at in self.arguments[1:]))
        if left != (before.number, before.sp, before.pc, *before.arguments[1:]):
            return None
        words[self.result] = before.arguments[0]
        words[self.pc] -= len(self.instruction)
        return self.pack(words)


def restartable(architecture: Architecture) -> frozenset[int]:
    """Give the numbers of the system calls that `Architecture.uninterrupted` corrects."""
    return architecture.numbers_of(_RESTARTABLE)


def _numbers(text: str) -> dict[str, int]:
    words = text.split()
    return {words[index]: int(words[index + 1]) for index in range(0, len(words), 2)}


# Registers: kernel, arch/x86/include/asm/user32.h; numbers: arch/x86/entry/syscalls/syscall_32.tbl.
I386 = Architecture(
    name="i386",
    elf_machine=3,
    instruction=b"\xcd\x80",
    words=17,
    pc=12,
    sp=15,
    number=6,
    result=6,
    arguments=(0, 1, 2, 3, 4, 5),
    original=11,
    numbers=_numbers(
        "read 3 write 4 socketcall 102 ipc 117 readv 145 writev 146 rt_sigtimedwait 177 sendfile 187"
        " sendfile64 239 io_getevents 247 epoll_wait 256 splice 313 epoll_pwait 319 recvmmsg 337"
        " sendmmsg 345 connect 362 accept4 364 sendto 369 sendmsg 370 recvfrom 371 recvmsg 372"
        " io_pgetevents 385 io_pgetevents_time64 416 recvmmsg_time64 417 semtimedop_time64 420"
        " rt_sigtimedwait_time64 421 io_uring_enter 426 epoll_pwait2 441"
    ),
    more=((NT_FPREGSET, "CORE"), (0x46E62B7F, "LINUX"), (0x202, "LINUX")),  # NT_PRXFPREG, NT_X86_XSTATE
    bits=32,
)
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
        "read 0 write 1 poll 7 rt_sigreturn 15 readv 19 writev 20 nanosleep 35 sendfile 40 connect 42"
        " accept 43 sendto 44 recvfrom 45 sendmsg 46 recvmsg 47 clone 56 vfork 58 wait4 61 semop 65"
        " rt_sigtimedwait 128 futex 202 io_getevents 208 restart_syscall 219 semtimedop 220"
        " clock_nanosleep 230 exit_group 231 epoll_wait 232 waitid 247 splice 275 epoll_pwait 281"
        " accept4 288 recvmmsg 299 sendmmsg 307 userfaultfd 323 io_pgetevents 333 io_uring_enter 426"
        " close_range 436 pidfd_getfd 438 epoll_pwait2 441"
    ),
    more=((NT_FPREGSET, "CORE"), (0x202, "LINUX")),  # NT_X86_XSTATE
    narrow=I386,
)
# Registers: kernel, arch/arm64/kernel/ptrace.c (those of arch/arm/include/asm/ptrace.h).
ARM = Architecture(
    name="arm",
    elf_machine=40,
    instruction=b"\x00\x00\x00\xef",  # svc #0
    words=18,
    pc=15,
    sp=13,
    number=7,
    result=0,
    arguments=(0, 1, 2, 3, 4, 5),
    original=None,  # as below
    numbers={},
    more=((0x400, "LINUX"), (0x401, "LINUX")),  # NT_ARM_VFP, NT_ARM_TLS
    bits=32,
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
    # What the kernel itself makes again it has prepared before a tracer sees the thread, and then forgets
    # that there was a call (arch/arm64/kernel/signal.c); see `Architecture.again` for the others.
    original=None,
    numbers=_numbers(
        "io_getevents 4 epoll_pwait 22 read 63 write 64 readv 65 writev 66 sendfile 71 pselect6 72"
        " ppoll 73 splice 76 exit_group 94 waitid 95 futex 98 nanosleep 101 clock_nanosleep 115"
        " restart_syscall 128 rt_sigsuspend 133 rt_sigtimedwait 137 rt_sigreturn 139 msgrcv 188 msgsnd 189"
        " semtimedop 192 semop 193 accept 202 connect 203 sendto 206 recvfrom 207 sendmsg 211 recvmsg 212"
        " clone 220 accept4 242 recvmmsg 243 wait4 260 sendmmsg 269 userfaultfd 282 io_pgetevents 292"
        " io_uring_enter 426 close_range 436 pidfd_getfd 438 epoll_pwait2 441"
    ),
    more=(
        (NT_FPREGSET, "CORE"),
        (0x401, "LINUX"),  # NT_ARM_TLS
        (0x404, "LINUX"),  # NT_ARM_SYSTEM_CALL
        (0x40E, "LINUX"),  # NT_ARM_FPMR
        (NT_ARM_SVE, "LINUX"),
        (NT_ARM_SSVE, "LINUX"),
        (0x40C, "LINUX"),  # NT_ARM_ZA
        (0x40D, "LINUX"),  # NT_ARM_ZT
        (0x406, "LINUX"),  # NT_ARM_PAC_MASK: what of a return address is its signature
        (0x40A, "LINUX"),  # NT_ARM_PAC_ENABLED_KEYS
        (0x409, "LINUX"),  # NT_ARM_TAGGED_ADDR_CTRL
    ),
    narrow=ARM,
    link=30,
    exchange=0x404,
    lost=(NT_ARM_SVE, NT_ARM_SSVE),
    branch=(33, 0xC00),  # PSTATE.BTYPE
)


def this() -> Architecture:
    """Give the architecture of this machine; raises `UsageError` where memdump does not know it."""
    name = os.uname().machine
    for architecture in (X86_64, AARCH64):
        if architecture.name == name:
            return architecture
    raise UsageError(f"memdump takes processes on x86_64 and aarch64 only, and this machine is {name}")
