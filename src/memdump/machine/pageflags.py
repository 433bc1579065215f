"""What the kernel says of each page: its own, free, or of a program or a file.

The bits are those of ``/proc/kpageflags`` (kernel, ``include/uapi/linux/kernel-page-flags.h`` and
``fs/proc/page.c``), which have never changed; new ones came behind the old.
"""

import re
import sys
from typing import List, Sequence, Tuple

from memdump.machine.source import Range

LRU, SLAB, BUDDY, MMAP, ANON, SWAPCACHE = 1 << 5, 1 << 7, 1 << 10, 1 << 11, 1 << 12, 1 << 13
COMPOUND_TAIL, HUGE, UNEVICTABLE, HWPOISON, NOPAGE = 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20
KSM, THP, OFFLINE, PGTABLE = 1 << 21, 1 << 22, 1 << 23, 1 << 26

_KERNEL = SLAB | PGTABLE
_FREE = BUDDY
_OTHERS = LRU | BUDDY | MMAP | ANON | SWAPCACHE | HUGE | UNEVICTABLE | HWPOISON | NOPAGE | KSM | THP | OFFLINE
"""Each of them says that a page is not the kernel's own.  What has none of them is: its image, stacks,
per-CPU memory, modules and all that it allocates page by page have no flag that would tell them."""

_GAP = 4
"""Pages that are taken along between two runs of kernel pages: one read costs less than two."""
_FEWEST_FREE = 16
"""Free pages that are worth a range header, and another read."""


def _table(place: int, kinds: Sequence[Tuple[int, int]]) -> bytes:
    """Give what each value of one byte of a page's flags becomes: the ``kinds`` whose bits are set in it."""
    found = bytearray(256)
    for value in range(256):
        for kind, bits in kinds:
            if value << 8 * place & bits:
                found[value] |= kind
    return bytes(found)


_TAIL, _OF_OTHERS, _OF_KERNEL = 1, 2, 4
_BYTES = range(4)
"""Those of a page's flags, from the lowest on, in which bits stand that are asked for."""
_TABLES = [
    _table(place, [(_TAIL, COMPOUND_TAIL), (_OF_OTHERS, _OTHERS), (_OF_KERNEL, _KERNEL)]) for place in _BYTES
]
_LETTERS = bytes(
    b"K"[0] if kinds & _OF_KERNEL or not kinds else b"O"[0] if kinds & _OF_OTHERS else b"T"[0]
    for kinds in range(256)
)
_KERNEL_RUN = re.compile(b"K[KT]*")
"""A tail of a compound page is what its head is."""
_FREE_PLACE = 1
_FREE_TABLE = _table(_FREE_PLACE, [(1, _FREE)])
_FREE_RUN = re.compile(b"\x01{%d,}" % _FEWEST_FREE)
_BROKEN_PLACE = 2
_BROKEN_TABLE = _table(_BROKEN_PLACE, [(1, HWPOISON)])
_BROKEN_RUN = re.compile(b"\x01+")


def kernel_runs(flags: bytes, address: int, page_size: int) -> List[Range]:
    """Give the runs of the kernel's own pages, of those that ``flags`` describes from ``address`` on."""
    # All pages at once, one byte of their flags after the other: page by page takes too long for a sweep.
    kinds = 0
    for place in _BYTES:
        kinds |= int.from_bytes(_plane(flags, place).translate(_TABLES[place]), "little")
    letters = kinds.to_bytes(len(flags) // 8, "little").translate(_LETTERS)
    return _joined(_runs(_KERNEL_RUN, letters, address, page_size), _GAP * page_size)


def free_runs(flags: bytes, address: int, page_size: int) -> List[Range]:
    """Give the longer runs of pages that nobody uses."""
    return _runs(_FREE_RUN, _plane(flags, _FREE_PLACE).translate(_FREE_TABLE), address, page_size)


def broken_runs(flags: bytes, address: int, page_size: int) -> List[Range]:
    """Give the runs of pages with a hardware error."""
    return _runs(_BROKEN_RUN, _plane(flags, _BROKEN_PLACE).translate(_BROKEN_TABLE), address, page_size)


def _plane(flags: bytes, place: int) -> bytes:
    """Give one byte of each page's flags, counted from the lowest."""
    return flags[place if sys.byteorder == "little" else 7 - place :: 8]


def _runs(kind: "re.Pattern[bytes]", letters: bytes, address: int, page_size: int) -> List[Range]:
    return [
        Range(address + found.start() * page_size, (found.end() - found.start()) * page_size)
        for found in kind.finditer(letters)
    ]


def _joined(runs: Sequence[Range], gap: int) -> List[Range]:
    joined: List[Range] = []
    for run in runs:
        if joined and run.start - joined[-1].end <= gap:
            joined[-1] = Range(joined[-1].start, run.end - joined[-1].start)
        else:
            joined.append(run)
    return joined
