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

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    Chunk = tuple[int, bytes]

WORD = 8
TIMESTAMP = re.compile(rb"#([0-9]{1,20})\0")


class Line(NamedTuple):
    """A history entry as it stands in memory."""

    address: int
    seconds: int
    """Since 1970."""
    text: bytes


class _Entry(NamedTuple):
    seconds: int
    line: int
    """Address of the text."""


def find_history(memory: Iterable[Chunk]) -> list[Line]:
    """The history in ``memory``, pieces of it with their addresses; in its own order.

    The pieces begin at addresses that a pointer may have, and none of them overlap.
    """
    chunks = list(memory)
    entries = _entries(chunks)
    left = sum(len(data) for _, data in chunks)
    lines = []
    for address in _longest_list(chunks, entries):
        seconds, line = entries[address]
        text = _string(chunks, line)
        if text is not None:
            lines.append(Line(address, seconds, text))
            left -= len(text)
            if left < 0:  # Forged: there is no room for that much text, so it is the same over and over.
                break
    return lines


def _entries(chunks: list[Chunk]) -> dict[int, _Entry]:
    """What looks like a history entry, by its address."""
    timestamps = {
        start + found.start(): int(found[1]) for start, data in chunks for found in TIMESTAMP.finditer(data)
    }
    return {
        start + (index - 1) * WORD: _Entry(timestamps[words[index]], words[index - 1])
        for start, index, words in _pointers(chunks, timestamps)
        if index and any(begin <= words[index - 1] < begin + len(data) for begin, data in chunks)
    }


def _longest_list(chunks: list[Chunk], entries: dict[int, _Entry]) -> list[int]:
    """The longest list of pointers to entries; pointers in it to what has been lost are left out."""
    longest: list[int] = []
    chunk, done = -1, 0
    for start, first, words in _pointers(chunks, entries):
        if start == chunk and first < done:
            continue
        last = first
        while last < len(words) and words[last]:
            last += 1
        chunk, done = start, last
        listed = list(dict.fromkeys(word for word in words[first:last] if word in entries))
        # There has to be an end, and more entries than other things.
        if last < len(words) and len(listed) * 2 > last - first and len(listed) > len(longest):
            longest = listed
    return longest


def _pointers(chunks: list[Chunk], wanted: Mapping[int, object]) -> Iterator[tuple[int, int, memoryview]]:
    """Pointers to one of ``wanted``, ascending: the address of their chunk, their index, its words."""
    for start, data in chunks:
        words = memoryview(data)[: len(data) // WORD * WORD].cast("Q")
        if not wanted or wanted.keys().isdisjoint(words):  # Quicker than to look at each, and most have none.
            continue
        for index in [index for index, word in enumerate(words) if word in wanted]:
            yield start, index, words


def _string(chunks: list[Chunk], address: int) -> bytes | None:
    """The string at an address; None where it has no end."""
    for start, data in chunks:
        if start <= address < start + len(data):
            end = data.find(b"\0", address - start)
            return data[address - start : end] if end >= 0 else None
    return None
