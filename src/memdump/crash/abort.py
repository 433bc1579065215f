"""Why a process gave up by itself: the message that glibc or GLib left, and what it means."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from memdump.crash.core import WRITE

if TYPE_CHECKING:
    from memdump.crash.program import CrashProgram

LONGEST_MESSAGE = 4096
PAGE = 4096
LARGEST_SEARCHED = 1 << 20
"""Anonymous mappings that are larger are not searched for a message."""
MOST_SEARCHED = 1024


class Meaning(NamedTuple):
    """What an abort was about."""

    kind: str
    text: str


HEAP = {
    "double free": "a block of the heap was freed a second time",
    "tcache 2": "a block of the heap was freed a second time",
    "invalid pointer": "what was freed is no block of the heap: not from malloc, or not its beginning",
    "invalid size": "the size in front of a heap block was overwritten, by a write beyond the block before,"
    " or what was freed is no block",
    "invalid next size": "what stands behind a heap block was overwritten, by a write beyond the end of it",
    "corrupted size": "the sizes of two neighbouring heap blocks disagree: a write went beyond one of them",
    "corrupted top size": "the end of the heap was overwritten, by a write beyond the end of the last block",
    "corrupted double-linked list": "the list of free heap blocks was overwritten: by a write beyond the end"
    " of a block, or into a block that was freed",
    "unaligned": "the list of free heap blocks was overwritten, as by a write into a block that was freed",
    "mismatching next->prev_size": "the heap was overwritten by a write beyond the end of a block",
    "munmap_chunk()": "what was freed is no block of the heap: not from malloc, or its size was overwritten",
}
"""Pieces of what ``malloc/malloc.c`` of glibc prints, and what they come from."""
HEAP_FUNCTIONS = (
    "free", "malloc", "realloc", "calloc", "munmap_chunk", "mremap_chunk", "malloc_consolidate", "sysmalloc",
    "memalign",
)  # fmt: skip
ASSERTION = re.compile(
    r"(?:(?P<program>[^:\n]*): )?(?P<file>[^:\n]+):(?P<line>\d+): (?:(?P<function>.*): )?"
    r"Assertion `(?P<condition>.*)' failed\.",
    re.DOTALL,
)
"""As ``assert/assert.c`` of glibc prints it."""


def message(program: CrashProgram) -> str:
    """What glibc (``__abort_msg``) or GLib printed before it aborted; empty where there is nothing."""
    return _glibc(program) or _glib(program) or _searched(program)


def _glibc(program: CrashProgram) -> str:
    """``__abort_msg`` leads to ``struct abort_msg_s``: a size, then the text (``include/stdlib.h``)."""
    symbol = program.symbol("__abort_msg")
    found = program.word(symbol) if symbol else None
    return (program.text(found + 4, LONGEST_MESSAGE) or "").strip() if found else ""


def _glib(program: CrashProgram) -> str:
    symbol = program.symbol("__glib_assert_msg")
    found = program.word(symbol) if symbol else None
    return (program.text(found, LONGEST_MESSAGE) or "").strip() if found else ""


def _searched(program: CrashProgram) -> str:
    """The same structure without a symbol: it is alone on its pages, whose size it begins with."""
    if program.symbol("__abort_msg"):
        return ""
    searched = 0
    for region in program.core.regions:
        if region.file or not region.flags & WRITE or not region.saved or region.saved > LARGEST_SEARCHED:
            continue
        searched += 1
        if searched > MOST_SEARCHED:
            break
        for at in range(region.start, region.start + region.saved, PAGE):
            start = program.read(at, 8)
            (size,) = struct.unpack_from("<I", start) if start else (0,)
            if size and size % PAGE == 0 and size <= region.end - at:
                text = program.text(at + 4, LONGEST_MESSAGE) or ""
                if len(text) > 4 and text.endswith("\n") and text[:-1].isprintable():
                    return text.strip()
    return ""


def meaning(text: str) -> Meaning:
    """What a message says; just that it was aborted where there is none."""
    if not text:
        return Meaning("abort", "the program called abort, and left no message that glibc keeps")
    if "stack smashing detected" in text:
        return Meaning(
            "stack_smashing",
            "a function wrote beyond a local variable on its stack, over the canary in front of its return"
            " address; it is the function that called __stack_chk_fail",
        )
    if "buffer overflow detected" in text:
        return Meaning(
            "buffer_overflow",
            "a function of the C library was told to write more than there is room for (_FORTIFY_SOURCE)",
        )
    if found := ASSERTION.search(text):
        where = f"{found['file']}:{found['line']}" + (f" in {found['function']}" if found["function"] else "")
        return Meaning("assertion", f"the assertion `{found['condition']}` failed at {where}")
    if _is_of_heap(text):
        words = next((words for piece, words in HEAP.items() if piece in text), "")
        return Meaning(
            "heap_corruption", words or "the heap is damaged: a write went to where no block of it was"
        )
    return Meaning("abort", "the program called abort with a message")


def _is_of_heap(text: str) -> bool:
    function = re.match(r"(\w+)(\(\))?[: ]", text)
    known = function is not None and (function[1] in HEAP_FUNCTIONS or function[1].startswith("tcache_"))
    return known or text.startswith(("corrupted ", "double free", "invalid fastbin", "chunk_main_arena"))
