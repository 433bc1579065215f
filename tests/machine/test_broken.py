"""Pages with a hardware error, which those who give memory pass off as zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.machine import broken, host, pieces
from memdump.machine.acquire import Plan
from memdump.machine.source import Range
from tests.machine.fake_kcore import PAGE
from tests.machine.test_acquire import Changing, taken
from tests.machine.test_pageflags import BUDDY
from tests.machine.test_pipeline import Collected

if TYPE_CHECKING:
    from pathlib import Path

HWPOISON = 1 << 19
MEMORY = [Range(0, 16 * PAGE), Range(20 * PAGE, 20 * PAGE)]


class Counting(Changing):
    """Says how much is broken, as the kernel does."""

    def broken(self) -> int:
        return sum(bool(flags & HWPOISON) for flags in self.flags.values()) * PAGE


def test_they_are_listed_with_what_could_not_be_read() -> None:
    source = Counting(MEMORY, {3: HWPOISON, 4: HWPOISON, 30: HWPOISON, 17: HWPOISON})
    source.bad = {5, 30, 33}
    found = taken(source, Collected())
    assert list(found.unreadable) == [
        Range(3 * PAGE, 3 * PAGE),
        Range(30 * PAGE, PAGE),
        Range(33 * PAGE, PAGE),
    ]
    assert found.complete


def test_of_a_run_that_was_stopped_only_what_is_in_the_image() -> None:
    source = Counting([Range(0, 64 << 20)], {1: HWPOISON, 16000: HWPOISON})
    found = taken(source, Collected(), stop_after=8)
    assert not found.complete
    assert list(found.unreadable) == [Range(PAGE, PAGE)]


def test_what_was_left_out_is_not_unreadable() -> None:
    flags = {**dict.fromkeys(range(20), BUDDY), 5: BUDDY | HWPOISON, 25: HWPOISON}
    found = taken(Counting([Range(0, 40 * PAGE)], flags), Collected(), plan=Plan(skip_free=True))
    assert list(found.skipped) == [Range(0, 20 * PAGE)]
    assert list(found.unreadable) == [Range(25 * PAGE, PAGE)]


def test_where_none_is_broken_nobody_is_asked_which() -> None:
    class Untroubled(Changing):
        def page_flags(self, address: int, size: int) -> bytes:
            raise AssertionError

    assert broken.pages(Untroubled(MEMORY, {}), MEMORY) == []


def test_where_the_kernel_does_not_tell_which_none_is_named() -> None:
    class Silent(Counting):
        def page_flags(self, address: int, size: int) -> bytes:
            raise PermissionError

    assert broken.pages(Silent(MEMORY, {3: HWPOISON}), MEMORY) == []


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("MemTotal: 1 kB\nHardwareCorrupted:     8 kB\nAnonHugePages: 0 kB\n", 8192),
        ("HardwareCorrupted:     0 kB\n", 0),
        ("MemTotal: 1 kB\n", 0),
        (None, 0),
    ],
)
def test_how_much_is_broken_is_the_kernels_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, amount: int
) -> None:
    monkeypatch.setattr(host, "_MEMINFO", str(tmp_path / "meminfo"))
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    assert host.broken_memory() == amount


RUNS = st.sets(st.integers(0, 60))


def ranges(pages: set[int]) -> list[Range]:
    found: list[Range] = []
    for page in sorted(pages):
        if found and found[-1].end == page:
            found[-1] = Range(found[-1].start, found[-1].size + 1)
        else:
            found.append(Range(page, 1))
    return found


@given(RUNS, RUNS)
def test_both_together_are_all_of_them_once(one: set[int], other: set[int]) -> None:
    assert pieces.joined([*ranges(one), *ranges(other)]) == ranges(one | other)
