"""Finds bash's history in the memory of a process, without symbols.

Bash keeps it in the structures of libreadline (``history.h``, ``history.c``):

    typedef struct _hist_entry { char *line; char *timestamp; histdata_t data; } HIST_ENTRY;
    static HIST_ENTRY **the_history;    /* the oldest first, a null pointer behind the last */

A timestamp is text: ``#`` and the seconds since 1970.  So these are looked for, then what points to one of
them and to a line, then the list that points to those entries.  Only what is in that list is history: it has
the order, and neither what was deleted nor what merely looks like an entry.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from memdump.tables.heap import PAGE, WORD, Heap, Line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAME = "bash"
TIMESTAMP = re.compile(rb"#([0-9]{1,20})\0")


class _Entry(NamedTuple):
    seconds: int
    line: int
    """Address of the text."""


def find_history(heap: Heap) -> list[Line]:
    """The history in the memory of a bash, in its own order."""
    entries = _entries(heap)
    return heap.lines((address, *entries[address]) for address in _longest_list(heap, entries))


def _entries(heap: Heap) -> dict[int, _Entry]:
    """What looks like a history entry, by its address."""
    timestamps = {
        start + found.start(): int(found[1])
        for start, data in heap.pieces
        for found in TIMESTAMP.finditer(data)
    }
    entries = {}
    for place in _pointers(heap, timestamps):
        line, timestamp = heap.word(place - WORD), heap.word(place)
        if line and heap.has(line) and timestamp:
            entries[place - WORD] = _Entry(timestamps[timestamp], line)
    return entries


def _longest_list(heap: Heap, entries: dict[int, _Entry]) -> list[int]:
    """The longest list of pointers to entries; pointers in it to what has been lost are left out."""
    longest: list[int] = []
    done = 0
    for first in _pointers(heap, entries):
        if first < done:
            continue
        last = first
        listed: dict[int, None] = {}
        while word := heap.word(last):
            if word in entries:
                listed[word] = None
            last += WORD
        done = last
        # There has to be an end, and more entries than other things.
        if word == 0 and len(listed) * 2 > (last - first) // WORD and len(listed) > len(longest):
            longest = list(listed)
    return longest


def _pointers(heap: Heap, wanted: Mapping[int, object]) -> Iterator[int]:
    """Addresses of the pointers to one of ``wanted``, page by page."""
    for number, words in heap.pages.items() if wanted else ():
        if not wanted.keys().isdisjoint(words):  # Quicker than to look at each, and most have none.
            for index, word in enumerate(words):
                if word in wanted:
                    yield number * PAGE + index * WORD
