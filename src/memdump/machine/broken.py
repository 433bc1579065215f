"""Pages with a hardware error.

Nobody can read them, and those who give memory put zeros in their place without a word: ``/proc/kcore``, and
memdump itself where it would have to touch them (`untouchable`).  What was in them is lost, and that is to be
told like any other page that cannot be read.
"""

from typing import List, Sequence

from memdump.errors import MemdumpError
from memdump.machine import pageflags, pieces
from memdump.machine.source import Range, Source

_AT_ONCE = 256 << 20
"""Bytes of memory whose flags are looked at together."""


def pages(source: Source, ranges: Sequence[Range]) -> List[Range]:
    """Give those in ``ranges``; none where the source knows of none, or not which they are."""
    found: List[Range] = []
    try:
        if source.broken():
            for span in ranges:
                for start in range(span.start, span.end, _AT_ONCE):
                    size = min(_AT_ONCE, span.end - start)
                    flags = source.page_flags(start, size)
                    for run in pageflags.broken_runs(flags, start, source.page_size):
                        pieces.add(found, run)
    except (OSError, MemdumpError):  # a source far away may be out of reach by now
        pass
    return found
