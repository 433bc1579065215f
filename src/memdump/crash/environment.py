"""The command line and the environment of a process: they are on the stack of its main thread.

The kernel puts them there when the program starts, with the pointers to them right in front of the auxiliary
vector (``create_elf_tables`` of ``fs/binfmt_elf.c``).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from memdump.crash.core import AT_RANDOM

if TYPE_CHECKING:
    from memdump.crash.program import CrashProgram

SEARCHED = 8 << 20
"""Bytes from the end of the stack: the kernel lets strings and pointers have no more by default."""
MOST_STRINGS = 1 << 16
LONGEST = 1 << 17
"""``MAX_ARG_STRLEN``."""


class Started(NamedTuple):
    """How the program was started; a process may have written over it since."""

    arguments: list[str]
    environment: list[str]


def started(program: CrashProgram) -> Started | None:
    """Read it; None where the stack of the main thread is not in the core."""
    core = program.core
    region = core.region(core.auxv.get(AT_RANDOM, 0))
    if region is None or not core.auxv:
        return None
    start = max(region.start, region.end - SEARCHED)
    stack = program.read(start, region.end - start)
    if stack is None:
        return None
    size, word = core.bits // 8, "Q" if core.bits == 64 else "I"
    first = struct.pack(f"{core.order}2{word}", *next(iter(core.auxv.items())))
    at = stack.rfind(first)
    if at < 0:
        return None
    words = struct.unpack(f"{core.order}{at // size}{word}", stack[at % size : at])
    environment, rest = _pointers(words)
    arguments, _ = _pointers(rest)
    return Started(_strings(program, arguments), _strings(program, environment))


def _pointers(words: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The array of pointers that ends with the NULL at the end of ``words``, and what is in front of it.

    In front of the environment stands the NULL of the arguments; in front of those their number.
    """
    if not words or words[-1]:
        return (), ()
    words = words[:-1]
    for count in range(min(len(words), MOST_STRINGS)):
        before = words[len(words) - 1 - count]
        if before in (0, count):
            at = len(words) - count
            return words[at:], words[:at]
    return (), ()


def _strings(program: CrashProgram, pointers: tuple[int, ...]) -> list[str]:
    return [text for pointer in pointers if (text := program.text(pointer, LONGEST)) is not None]
