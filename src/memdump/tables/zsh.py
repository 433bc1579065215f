"""Finds zsh's history in the memory of a process, without symbols.

It is a ring (``Src/zsh.h`` and ``Src/hist.c``, unchanged in all of zsh 5):

    struct histent {
        struct { HashNode next; char *nam; int flags; } node;    /* nam is the line */
        struct histent *up, *down;                               /* the one before, the one after */
        char *zle_text; time_t stim, ftim; short *words; int nwords; long histnum;
    };

So entries are looked for whose ``up`` leads to another whose ``down`` leads back; their numbers give the
order.  Where some are lost, the others are still found.
"""

from __future__ import annotations

from typing import NamedTuple

from memdump.tables.heap import PAGE, WORD, Heap, Line

NAME = "zsh"
TEXT, FLAGS, UP, DOWN, STARTED, NUMBER = 8, 16, 24, 32, 48, 80
"""Offsets of members."""
ALL_FLAGS = 0xFFF
LATEST = 1 << 40
"""No time is later, in seconds since 1970."""
META = 0x83
"""Escapes a byte that zsh uses for itself: what follows has bit 5 turned over."""


class _Entry(NamedTuple):
    number: int
    address: int
    up: int
    seconds: int
    text: int
    """Its address."""


def find_history(heap: Heap) -> list[Line]:
    """The history in the memory of a zsh, the oldest first."""
    entries = sorted(_entries(heap).values())
    lines = heap.lines((entry.address, entry.seconds or None, entry.text) for entry in entries)
    # The line that is just being typed is in the ring, but its text is kept elsewhere.
    return [line._replace(text=plain(line.text)) for line in lines if line.text]


def plain(text: bytes) -> bytes:
    """What was typed, from how zsh keeps it (``unmetafy`` of ``Src/utils.c``)."""
    first, *others = text.split(bytes([META]))
    return first + b"".join(bytes([part[0] ^ 32]) + part[1:] for part in others if part)


def _entries(heap: Heap) -> dict[int, _Entry]:
    """What is linked as entries are and looks like one, by its address."""
    entries: dict[int, _Entry] = {}
    for number, words in heap.pages.items():
        for index, up in enumerate(words):
            # Nearly all words end here: so this is kept short.
            if up // PAGE in heap.pages and not up % WORD:
                address = number * PAGE + index * WORD - UP
                if heap.word(up + DOWN) == address:
                    for each in (address, up):
                        entry = _entry(heap, each)
                        if entry:
                            entries[each] = entry
    return entries


def _entry(heap: Heap, address: int) -> _Entry | None:
    up, text, flags = (heap.word(address + offset) for offset in (UP, TEXT, FLAGS))
    seconds, number = heap.word(address + STARTED), heap.word(address + NUMBER)
    if not up or not text or not number or flags is None or seconds is None:
        return None
    if not heap.has(text) or flags & 0xFFFF_FFFF & ~ALL_FLAGS or seconds > LATEST or number >> 31:
        return None
    return _Entry(number, address, up, seconds, text)
