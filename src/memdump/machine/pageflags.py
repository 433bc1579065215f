"""What the kernel says of each page: its own, free, or of a program or a file.

The bits are those of ``/proc/kpageflags`` (kernel, ``include/uapi/linux/kernel-page-flags.h`` and
``fs/proc/page.c``), which have never changed; new ones came behind the old.
"""

import array
from typing import List, Sequence

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


def kernel_runs(flags: bytes, address: int, page_size: int) -> List[Range]:
    """Give the runs of the kernel's own pages, of those that ``flags`` describes from ``address`` on."""
    return _joined(_runs(_kernel(array.array("Q", flags)), address, page_size), _GAP * page_size)


def free_runs(flags: bytes, address: int, page_size: int) -> List[Range]:
    """Give the longer runs of pages that nobody uses."""
    pages = [bool(page & _FREE) for page in array.array("Q", flags)]
    return [run for run in _runs(pages, address, page_size) if run.size >= _FEWEST_FREE * page_size]


def _kernel(flags: Sequence[int]) -> List[bool]:
    found = []
    kernel = False
    for page in flags:
        if page & _KERNEL:
            kernel = True
        elif page & _OTHERS:
            kernel = False
        elif not page & COMPOUND_TAIL:  # a tail of a compound page is what its head is
            kernel = True
        found.append(kernel)
    return found


def _runs(chosen: Sequence[bool], address: int, page_size: int) -> List[Range]:
    runs = []
    start = None
    for index, here in enumerate(chosen):
        if here and start is None:
            start = index
        elif not here and start is not None:
            runs.append(Range(address + start * page_size, (index - start) * page_size))
            start = None
    if start is not None:
        runs.append(Range(address + start * page_size, (len(chosen) - start) * page_size))
    return runs


def _joined(runs: Sequence[Range], gap: int) -> List[Range]:
    joined: List[Range] = []
    for run in runs:
        if joined and run.start - joined[-1].end <= gap:
            joined[-1] = Range(joined[-1].start, run.end - joined[-1].start)
        else:
            joined.append(run)
    return joined
