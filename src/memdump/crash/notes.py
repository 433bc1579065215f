"""The notes of a process's core: what the kernel writes beside the memory (``fs/binfmt_elf.c``).

Layouts: ``struct elf_prstatus``, ``struct elf_prpsinfo``, ``siginfo_t``, and for 32 bits those of
``include/linux/elfcore-compat.h``.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

NT_PRSTATUS, NT_PRPSINFO, NT_AUXV = 1, 3, 6
NT_SIGINFO, NT_FILE = 0x53494749, 0x46494C45
"""``SIGI`` and ``FILE``."""

_LONG = 64
_WORDS = {32: "I", 64: "Q"}
MOST_FILES = 1 << 17
FAULTS = (4, 5, 7, 8, 11)
"""SIGILL, SIGTRAP, SIGBUS, SIGFPE and SIGSEGV: their information has an address if the kernel sent them."""


@dataclass(frozen=True, slots=True)
class SignalInfo:
    """The signal that ended the process (``siginfo_t``)."""

    number: int
    code: int | None
    """``si_code``; None where the core has no NT_SIGINFO."""
    address: int | None = None
    """``si_addr``, of a fault that the kernel tells of."""
    sender: int | None = None
    """Process id of who sent it; `user` is that one's user id."""
    user: int | None = None
    system_call: int | None = None
    """Of SIGSYS: the number of the system call that a filter refused."""


class ThreadStatus(NamedTuple):
    """The start of ``struct elf_prstatus``."""

    tid: int
    signal: int
    registers: bytes = b""
    """What stands behind it (``pr_reg``)."""


class ProcessInfo(NamedTuple):
    """``struct elf_prpsinfo``: as ps shows the process."""

    pid: int
    parent: int
    user: int
    group: int
    name: str
    arguments: str
    """The first 80 bytes of the command line."""


class MappedFile(NamedTuple):
    """A mapping of a file, of NT_FILE."""

    start: int
    end: int
    offset: int
    """Where in the file it begins, in bytes."""
    path: str


def parse_status(data: bytes, order: str, bits: int = 64) -> ThreadStatus | None:
    """NT_PRSTATUS of a thread."""
    if len(data) < 36:
        return None
    (signal,) = struct.unpack_from(f"{order}h", data, 12)
    (tid,) = struct.unpack_from(f"{order}i", data, 32 if bits == _LONG else 24)
    return ThreadStatus(tid, signal, data[112 if bits == _LONG else 72 :])


def parse_process(data: bytes, order: str, bits: int = 64) -> ProcessInfo | None:
    """NT_PRPSINFO."""
    form, at, names = ("IIii", 16, 40) if bits == _LONG else ("HHii", 8, 28)
    if len(data) < names + 96:
        return None
    user, group, pid, parent = struct.unpack_from(order + form, data, at)
    name, arguments = data[names : names + 16].split(b"\0")[0], data[names + 16 : names + 96].split(b"\0")[0]
    return ProcessInfo(pid, parent, user, group, os.fsdecode(name), os.fsdecode(arguments).strip())


def parse_signal(data: bytes, order: str, bits: int = 64) -> SignalInfo | None:
    """NT_SIGINFO; the fields behind the code depend on who sent the signal (``include/uapi/asm-generic``)."""
    if len(data) < 32:
        return None
    number, _, code = struct.unpack_from(f"{order}iii", data)
    pointer, at = ("Q", 16) if bits == _LONG else ("I", 12)
    if not number:
        return None
    if code <= 0:  # SI_USER and what else processes send
        sender, user = struct.unpack_from(f"{order}iI", data, at)
        return SignalInfo(number, code, sender=sender, user=user)
    (address,) = struct.unpack_from(order + pointer, data, at)
    if number == 31:  # SIGSYS
        (call,) = struct.unpack_from(f"{order}i", data, at + bits // 8)
        return SignalInfo(number, code, address, system_call=call)
    return SignalInfo(number, code, address if number in FAULTS else None)


def parse_auxv(data: bytes, order: str, bits: int = 64) -> dict[int, int]:
    """NT_AUXV: the vector that the kernel gave the program at its start."""
    pair = struct.Struct(f"{order}2{_WORDS[bits]}")
    whole = data[: len(data) // pair.size * pair.size]
    return {key: value for key, value in pair.iter_unpack(whole) if key}


def parse_files(data: bytes, order: str, bits: int = 64) -> Iterator[MappedFile]:
    """NT_FILE: a table of mappings, then their names."""
    head, entry = (struct.Struct(f"{order}{count}{_WORDS[bits]}") for count in (2, 3))
    if len(data) < head.size:
        return
    count, page = head.unpack_from(data)
    names_at = head.size + count * entry.size
    if count > MOST_FILES or names_at > len(data):
        return
    names = data[names_at:].split(b"\0")
    for number, name in zip(range(count), names, strict=False):
        start, end, offset = entry.unpack_from(data, head.size + number * entry.size)
        yield MappedFile(start, end, offset * page, os.fsdecode(name))
