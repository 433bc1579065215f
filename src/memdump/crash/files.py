"""What a core tells of the files that a process had open.

The table of open files is the kernel's, and not in the core.  In it are the files that were mapped (NT_FILE),
the streams of the C library, of which each knows its descriptor, and texts in memory that look like paths:
what they name may have been opened, or only been spoken of.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from memdump.crash.core import EXECUTE, WRITE
from memdump.crash.program import pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.crash.program import CrashProgram

MOST_STREAMS = 4096
MOST_PATHS = 1000
LONGEST_PATH = 4096
FLAGS_MAGIC = 0xFBAD
NO_READS, NO_WRITES = 0x4, 0x8
LARGEST_DESCRIPTOR = 1 << 30
STREAM = struct.Struct("<i4x13Qi")
"""``struct _IO_FILE`` of glibc for 64 bits (``struct_FILE.h``): flags, pointers, the descriptor."""
WRITE_BASE, WRITE_POINTER, CHAIN = 3, 4, 12
"""Which pointer is which: what is not written yet begins and ends there; the next stream."""
PATH = re.compile(rb"(?<![\x21-\x7e])((?:/[\w.+@%~,=-]+){2,})(?=\0)")


class Stream(NamedTuple):
    """An open stream of the C library (``FILE``)."""

    descriptor: int
    mode: str
    """``read``, ``write``, or both."""
    unwritten: int
    """Bytes in its buffer that were not yet given to the kernel."""


class Files(NamedTuple):
    """What is known of files."""

    mapped: list[str]
    """Files that were mapped but hold no code: those are among the modules."""
    streams: list[Stream]
    paths: list[str]
    """Texts in the data, the heap and the stacks that look like paths of files."""


def files(program: CrashProgram) -> Files:
    """Look for them; it takes as long as reading the memory that can be written to, at most 256 MiB of it."""
    return Files(_mapped(program), list(_streams(program)), sorted(_paths(program)))


def _mapped(program: CrashProgram) -> list[str]:
    code = {region.file for region in program.core.regions if region.flags & EXECUTE}
    code |= {module.name for module in program.modules}
    return sorted({file.path for file in program.core.files} - code)


def _streams(program: CrashProgram) -> Iterator[Stream]:
    """The list that begins at ``_IO_list_all``; none where the C library is another one."""
    start = program.symbol("_IO_list_all") if program.core.bits == 64 else None
    at = program.word(start) if start else None
    seen: set[int] = set()
    while at and at not in seen and len(seen) < MOST_STREAMS:
        seen.add(at)
        data = program.read(at, STREAM.size)
        if data is None:
            return
        flags, *pointers, descriptor = STREAM.unpack(data)
        if flags >> 16 & 0xFFFF != FLAGS_MAGIC:
            return
        begin, end = pointers[WRITE_BASE], pointers[WRITE_POINTER]
        if 0 <= descriptor < LARGEST_DESCRIPTOR:
            yield Stream(descriptor, _mode(flags), end - begin if end > begin else 0)
        at = pointers[CHAIN]


def _mode(flags: int) -> str:
    """What a stream was opened for."""
    modes = [name for name, bit in (("read", NO_READS), ("write", NO_WRITES)) if not flags & bit]
    return " and ".join(modes) or "nothing"


def _paths(program: CrashProgram) -> set[str]:
    found: set[str] = set()
    regions = [region for region in program.core.regions if region.flags & WRITE]
    starts = {region.start for region in regions}
    for start, data in pieces(program, regions, LONGEST_PATH):
        # What another piece begins with may be the rest of a path, which the one before has whole.
        found |= {match[1].decode() for match in PATH.finditer(data) if match.start() or start in starts}
        if len(found) >= MOST_PATHS:
            break
    return found
