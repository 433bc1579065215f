from __future__ import annotations

import errno
import zlib
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from memdump.machine import pieces, stage
from memdump.machine.acquire import Plan
from memdump.machine.source import Range
from memdump.machine.spill import SpillFile
from memdump.machine.stage import Packing, Stage
from tests.machine.fake_kcore import PAGE
from tests.machine.test_acquire import Changing, joined, taken
from tests.machine.test_pageflags import SLAB
from tests.machine.test_pipeline import Collected

if TYPE_CHECKING:
    from pathlib import Path

PAGES = 64
PACKING = Packing(lambda data: zlib.compress(data), lambda data: zlib.decompress(data))


def acquired(kept: Stage) -> bytes:
    """The first byte of each page of a machine all of whose pages are the kernel's: how often it was read."""
    source = Changing([Range(0, PAGES * PAGE)], dict.fromkeys(range(PAGES), SLAB))
    stream = Collected()
    with mock.patch.object(pieces, "BLOCK", 4 * PAGE):
        found = taken(source, stream, plan=Plan(kept))
    (data,) = joined(bytes(stream.data)).values()
    for page in range(PAGES):
        inside = slice(page * PAGE + 1, (page + 1) * PAGE)
        assert data[inside] == source.memory[inside]
    assert found.staged + found.unstaged == PAGES * PAGE
    assert found.staged == data[::PAGE].count(1) * PAGE
    return data[::PAGE]


def test_what_finds_no_room_in_memory_is_counted_and_read_in_its_turn() -> None:
    with mock.patch.multiple(stage, BUDGET=9 * 4 * PAGE, PACKED_BUDGET=9 * 4 * PAGE):
        first = acquired(Stage(PAGE))
    assert first == b"\1" * 32 + b"\2" * 32


def test_packing_and_a_file_make_room_for_all(tmp_path: Path) -> None:
    with mock.patch.multiple(stage, BUDGET=9 * 4 * PAGE, PACKED_BUDGET=9 * 4 * PAGE):
        spill = SpillFile(str(tmp_path), 0)
        assert acquired(Stage(PAGE, PACKING, spill)) == b"\1" * PAGES
        assert list(tmp_path.iterdir()) == []
        spill.close()
        spill = SpillFile(str(tmp_path), 0)
        assert acquired(Stage(PAGE, None, spill)) == b"\1" * PAGES
        spill.close()


def test_a_disk_with_no_room_to_spare_costs_nothing_but_the_order(tmp_path: Path) -> None:
    with mock.patch.multiple(stage, BUDGET=9 * 4 * PAGE, PACKED_BUDGET=9 * 4 * PAGE):
        spill = SpillFile(str(tmp_path), 1 << 60)
        assert acquired(Stage(PAGE, None, spill)) == b"\1" * 32 + b"\2" * 32
        spill.close()


class Unwell(SpillFile):
    """On a disk that reads nothing back from some place on, or something else."""

    def __init__(self, folder: str, good: int, *, raises: bool) -> None:
        super().__init__(folder, 0)
        self.good = good
        self.raises = raises

    def get(self, place: int, size: int) -> bytes:
        if place >= self.good and self.raises:
            raise OSError(errno.EIO, "Input/output error")
        return super().get(place, size) if place < self.good else bytes(size)


@pytest.mark.parametrize("raises", [True, False])
def test_copies_that_a_disk_does_not_give_back_are_counted_and_read_in_their_turn(
    tmp_path: Path, raises: bool
) -> None:
    with mock.patch.multiple(stage, BUDGET=9 * 4 * PAGE, PACKED_BUDGET=9 * 4 * PAGE):
        spill = Unwell(str(tmp_path), 5 * 4 * PAGE, raises=raises)
        first = acquired(Stage(PAGE, PACKING, spill))
        spill.close()
    early = first.count(1)
    assert first == b"\1" * early + b"\2" * (PAGES - early)
    assert PAGES // 2 < early < PAGES


def test_a_machine_too_small_for_any_copy() -> None:
    assert acquired(Stage(PAGE, None, None, PAGES)) == b"\2" * PAGES
