from __future__ import annotations

import contextlib
import itertools
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.errors import NotPermitted
from memdump.machine import host, untouchable
from memdump.machine.devmem import DevmemSource
from memdump.machine.source import Range
from tests.machine.fake_kcore import PAGE, make

if TYPE_CHECKING:
    from pathlib import Path

# include/uapi/linux/kernel-page-flags.h
HWPOISON, NOPAGE, THP, OFFLINE = 19, 20, 22, 23
PLAIN = [0, 1 << THP, 1 << 10, (1 << 64) - 1 & ~(1 << HWPOISON | 1 << NOPAGE | 1 << OFFLINE)]
BAD = [1 << HWPOISON, 1 << NOPAGE, 1 << OFFLINE, (1 << 64) - 1]


class Flags:
    """``/proc/kpageflags``, from a page on."""

    def __init__(self, first: int, flags: list[int]) -> None:
        self.first = first
        self.flags = flags

    def __call__(self, first: int, count: int) -> bytes:
        flags = self.flags[first - self.first : first - self.first + count]
        return struct.pack(f"={len(flags)}Q", *flags)


@given(st.lists(st.sampled_from(PLAIN + BAD), min_size=1, max_size=40), st.data())
def test_runs_cover_all_and_keep_away_from_every_bad_page(flags: list[int], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(flags) * PAGE - 1))
    size = data.draw(st.integers(1, len(flags) * PAGE - start))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(host, "page_flags", Flags(16, flags))
        found = list(untouchable.runs(16 * PAGE + start, size, PAGE))
    assert found[0][0].start == 16 * PAGE + start
    assert found[-1][0].end == 16 * PAGE + start + size
    for (before, first), (behind, second) in itertools.pairwise(found):
        assert before.end == behind.start
        assert first != second
    for run, touchable in found:
        for page in range(run.start // PAGE, (run.end - 1) // PAGE + 1):
            assert touchable == (flags[page - 16] not in BAD)


def test_where_the_kernel_does_not_tell_all_may_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(first: int, count: int) -> bytes:
        raise PermissionError

    monkeypatch.setattr(host, "page_flags", refuse)
    assert list(untouchable.runs(0x1000, 0x5000, PAGE)) == [(Range(0x1000, 0x5000), True)]


def test_where_the_flags_end_early_the_rest_may_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "page_flags", Flags(1, [0, 1 << HWPOISON]))
    assert list(untouchable.runs(PAGE, 5 * PAGE, PAGE)) == [
        (Range(PAGE, PAGE), True),
        (Range(2 * PAGE, PAGE), False),
        (Range(3 * PAGE, 3 * PAGE), True),
    ]


def test_a_source_gives_zeros_for_such_pages_and_does_not_touch_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = make(tmp_path)
    device = tmp_path / "device"
    with device.open("wb") as file:
        for start, data in machine.memory.items():
            file.seek(start)
            file.write(data)
    flags = [0] * 0x400
    flags[0x110] = flags[0x111] = 1 << OFFLINE
    flags[0x1FF] = 1 << HWPOISON
    monkeypatch.setattr(host, "page_flags", Flags(0, flags))
    touched: list[int] = []

    class Watched(DevmemSource):
        def _read(self, address: int, buffer: memoryview) -> None:
            touched.extend(range(address // PAGE, (address + len(buffer) - 1) // PAGE + 1))
            super()._read(address, buffer)

    with contextlib.closing(Watched(str(device), str(machine.iomem))) as source:
        touched.clear()
        buffer = memoryview(bytearray(b"x" * 0x100000))
        source.read_into(0x100000, buffer)
    assert sorted(touched) == [page for page in range(0x100, 0x200) if page not in (0x110, 0x111, 0x1FF)]
    expected = bytearray(machine.memory[0x100000][:0x100000])
    expected[0x10000:0x12000] = bytes(0x2000)
    expected[0xFF000:0x100000] = bytes(PAGE)
    assert buffer == expected


@pytest.mark.parametrize(
    ("meminfo", "refused"),
    [
        ("MemTotal: 1 kB\nUnaccepted:  2048 kB\nHugepagesize: 2048 kB\n", True),
        ("MemTotal: 1 kB\nUnaccepted:     0 kB\n", False),
        ("MemTotal: 1 kB\n", False),
        (None, False),
    ],
)
def test_a_guest_with_memory_it_has_not_accepted_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meminfo: str | None, refused: bool
) -> None:
    machine = make(tmp_path)
    if meminfo is not None:
        (tmp_path / "meminfo").write_text(meminfo)
    monkeypatch.setattr(untouchable, "MEMINFO", str(tmp_path / "meminfo"))
    if refused:
        with pytest.raises(NotPermitted, match=r"has not accepted 2048 KiB .* use kcore"):
            DevmemSource(str(tmp_path / "device"), str(machine.iomem))
    else:
        untouchable.check()
