from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from memdump.machine import pageflags
from memdump.machine.source import Range
from tests.machine.fake_kcore import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterable

# The numbers of include/uapi/linux/kernel-page-flags.h.
LRU, SLAB, BUDDY, ANON = 1 << 5, 1 << 7, 1 << 10, 1 << 12
HEAD, TAIL, THP, PGTABLE = 1 << 15, 1 << 16, 1 << 22, 1 << 26


def packed(flags: Iterable[int]) -> bytes:
    return b"".join(struct.pack("=Q", page) for page in flags)


def pages(runs: list[Range]) -> set[int]:
    return {page for run in runs for page in range(run.start // PAGE, run.end // PAGE)}


def test_slab_page_tables_and_what_has_no_owner_are_the_kernels() -> None:
    flags = [LRU, SLAB, *[LRU] * 9, PGTABLE, *[ANON] * 9, 0, *[BUDDY] * 9]
    assert pages(pageflags.kernel_runs(packed(flags), 100 * PAGE, PAGE)) == {101, 111, 121}


def test_the_tail_of_a_compound_page_is_what_its_head_is() -> None:
    flags = [SLAB | HEAD, TAIL, TAIL, *[LRU] * 8, LRU | HEAD, *[TAIL] * 7, THP | HEAD, *[TAIL | THP] * 3]
    assert pages(pageflags.kernel_runs(packed(flags), 0, PAGE)) == {0, 1, 2}


def test_short_gaps_between_kernel_pages_are_taken_along() -> None:
    flags = [SLAB, LRU, LRU, SLAB, *[LRU] * 20, SLAB]
    assert pageflags.kernel_runs(packed(flags), 0, PAGE) == [Range(0, 4 * PAGE), Range(24 * PAGE, PAGE)]


OTHERS = (5, 10, 11, 12, 13, 17, 18, 19, 20, 21, 22, 23)
"""lru, buddy, mmap, anon, swapcache, huge, unevictable, hwpoison, nopage, ksm, thp, offline."""


@given(st.lists(st.integers(0, 63).map(lambda bit: 1 << bit) | st.integers(0, (1 << 64) - 1), max_size=200))
def test_each_page_is_told_by_its_own_flags_or_its_heads(flags: list[int]) -> None:
    expected, kernel = set(), False
    for number, page in enumerate(flags):
        if page & (SLAB | PGTABLE):
            kernel = True
        elif any(page >> bit & 1 for bit in OTHERS):
            kernel = False
        elif not page & TAIL:
            kernel = True
        expected |= {number} if kernel else set()
    # What lies between two runs is taken along where it is short.
    found = pages(pageflags.kernel_runs(packed(flags), 0, PAGE))
    assert expected <= found
    assert all(expected & set(range(page - 4, page)) for page in found - expected)
    assert all(expected & set(range(page + 1, page + 5)) for page in found - expected)


@given(st.lists(st.sampled_from([0, LRU, SLAB, BUDDY, ANON, PGTABLE, TAIL]), max_size=300))
def test_free_runs_are_long_and_nothing_but_free(flags: list[int]) -> None:
    found = pageflags.free_runs(packed(flags), 0, PAGE)
    assert all(run.size >= 16 * PAGE for run in found)
    assert all(flags[page] == BUDDY for page in pages(found))
    text = "".join("f" if page == BUDDY else "." for page in flags)
    assert sum(len(run) for run in text.split(".") if len(run) >= 16) == len(pages(found))


@given(st.lists(st.integers(0, 63).map(lambda bit: 1 << bit) | st.integers(0, (1 << 64) - 1), max_size=200))
def test_broken_runs_are_the_pages_with_a_hardware_error(flags: list[int]) -> None:
    found = pageflags.broken_runs(packed(flags), 7 * PAGE, PAGE)
    assert pages(found) == {7 + number for number, page in enumerate(flags) if page >> 19 & 1}
