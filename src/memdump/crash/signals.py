"""Signals and their codes in words (``signal(7)``, ``sigaction(2)``, ``asm-generic/siginfo.h``)."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memdump.crash.notes import SignalInfo

WORDS = {
    "SIGSEGV": "a bad memory access",
    "SIGBUS": "memory that is mapped could not be accessed",
    "SIGFPE": "a fault in arithmetic",
    "SIGILL": "an instruction that the processor does not take",
    "SIGTRAP": "a breakpoint or trap",
    "SIGABRT": "the program gave up by itself",
    "SIGSYS": "a system call that a filter refused",
    "SIGQUIT": "asked to quit with a core",
    "SIGXCPU": "more processor time used than allowed",
    "SIGXFSZ": "a file larger than allowed",
}

STOPPING = ("SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU")
"""Signals that stop a process and do not end it."""

CODES = {
    "SIGSEGV": {
        1: ("SEGV_MAPERR", "nothing is mapped at the address"),
        2: ("SEGV_ACCERR", "the mapping does not allow the access"),
        3: ("SEGV_BNDERR", "a bound was not kept"),
        4: ("SEGV_PKUERR", "a protection key denied the access"),
        5: ("SEGV_ACCADI", "memory tagging is not on for the mapping"),
        6: ("SEGV_ADIDERR", "the tag of the memory did not match"),
        7: ("SEGV_ADIPERR", "the tag of the memory did not match"),
        8: ("SEGV_MTEAERR", "the tag of the memory did not match, which was found late"),
        9: ("SEGV_MTESERR", "the tag of the pointer is not that of the memory"),
        10: ("SEGV_CPERR", "a return or jump that control-flow protection denied"),
    },
    "SIGBUS": {
        1: ("BUS_ADRALN", "the address is misaligned"),
        2: ("BUS_ADRERR", "there is nothing behind the mapping"),
        3: ("BUS_OBJERR", "the hardware reported an error"),
        4: ("BUS_MCEERR_AR", "the memory is broken, and was used"),
        5: ("BUS_MCEERR_AO", "the memory is broken, and was not used yet"),
    },
    "SIGFPE": {
        1: ("FPE_INTDIV", "division of an integer by zero"),
        2: ("FPE_INTOVF", "overflow of an integer"),
        3: ("FPE_FLTDIV", "floating-point division by zero"),
        4: ("FPE_FLTOVF", "floating-point overflow"),
        5: ("FPE_FLTUND", "floating-point underflow"),
        6: ("FPE_FLTRES", "inexact floating-point result"),
        7: ("FPE_FLTINV", "invalid floating-point operation"),
        8: ("FPE_FLTSUB", "subscript out of range"),
    },
    "SIGILL": {
        1: ("ILL_ILLOPC", "illegal opcode"),
        2: ("ILL_ILLOPN", "illegal operand"),
        3: ("ILL_ILLADR", "illegal addressing mode"),
        4: ("ILL_ILLTRP", "illegal trap"),
        5: ("ILL_PRVOPC", "privileged instruction"),
        6: ("ILL_PRVREG", "privileged register"),
        7: ("ILL_COPROC", "error of a coprocessor"),
        8: ("ILL_BADSTK", "error of the stack"),
    },
    "SIGTRAP": {
        1: ("TRAP_BRKPT", "a breakpoint"),
        2: ("TRAP_TRACE", "a single step"),
        3: ("TRAP_BRANCH", "a branch that is traced"),
        4: ("TRAP_HWBKPT", "a hardware breakpoint or watchpoint"),
    },
    "SIGSYS": {1: ("SYS_SECCOMP", "seccomp refused the system call")},
}

SI_KERNEL = 0x80
FROM_ANYWHERE = {
    SI_KERNEL: ("SI_KERNEL", "the kernel gives no address"),
    0: ("SI_USER", "sent by kill"),
    -1: ("SI_QUEUE", "sent by sigqueue"),
    -2: ("SI_TIMER", "sent by a timer"),
    -3: ("SI_MESGQ", "sent by a message queue"),
    -4: ("SI_ASYNCIO", "sent by asynchronous input or output"),
    -5: ("SI_SIGIO", "sent by input or output"),
    -6: ("SI_TKILL", "sent by tgkill, as raise and abort do"),
}
FIRST_REALTIME = 32


def name(number: int) -> str:
    """``SIGSEGV``."""
    try:
        return signal.Signals(number).name if number < FIRST_REALTIME else f"SIGRT{number - FIRST_REALTIME}"
    except ValueError:
        return f"signal {number}"


def words(number: int) -> str:
    """What the signal says, in words; empty for one that says nothing by itself."""
    return WORDS.get(name(number), "")


def code(info: SignalInfo) -> tuple[str, str]:
    """The name of ``si_code`` and what it says; both empty where the core does not have it."""
    if info.code is None:
        return "", ""
    found = CODES.get(name(info.number), {}).get(info.code) or FROM_ANYWHERE.get(info.code)
    return found or (f"si_code {info.code}", "")
