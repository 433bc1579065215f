"""Memory that the kernel takes out of use, as it tells of it in ``/sys``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.machine import offline
from memdump.machine.source import Range
from tests.machine.fake_kcore import PAGE
from tests.machine.test_acquire import Changing, taken
from tests.machine.test_pipeline import Collected

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 0x8000000


def made(folder: Path, states: dict[int, str]) -> str:
    (folder / "block_size_bytes").write_text(f"{BLOCK:x}\n")
    for name in ("power", "memory_failure"):
        (folder / name).mkdir()
    for number, state in states.items():
        (folder / f"memory{number}").mkdir()
        (folder / f"memory{number}" / "state").write_text(f"{state}\n")
    return str(folder)


def test_blocks_that_are_offline_are_found_in_order(tmp_path: Path) -> None:
    states = {0: "online", 2: "going-offline", 9: "offline", 10: "offline", 32: "online", 100: "offline"}
    found = offline.blocks(made(tmp_path, states))
    assert found == [Range(9 * BLOCK, 2 * BLOCK), Range(100 * BLOCK, BLOCK)]


def test_a_kernel_that_does_not_tell_has_none(tmp_path: Path) -> None:
    assert offline.blocks(str(tmp_path / "none")) == []
    (tmp_path / "block_size_bytes").write_text("many\n")
    assert offline.blocks(str(tmp_path)) == []


def test_a_block_that_goes_meanwhile_is_passed_over(tmp_path: Path) -> None:
    folder = made(tmp_path, {1: "offline", 2: "offline"})
    (tmp_path / "memory1" / "state").unlink()
    assert offline.blocks(folder) == [Range(2 * BLOCK, BLOCK)]


class Losing(Changing):
    """Loses memory while it is read: one part is unplugged, another taken offline; a third always was."""

    def ranges_now(self) -> list[Range]:
        return [Range(0, 8 * PAGE), Range(20 * PAGE, 20 * PAGE), Range(60 * PAGE, PAGE)]

    def offline(self) -> list[Range]:
        always = Range(22 * PAGE, 2 * PAGE)
        return [always, Range(30 * PAGE, 4 * PAGE)] if self.seen else [always]


def test_what_the_machine_loses_meanwhile_is_told_whatever_was_out_of_use_before() -> None:
    found = taken(Losing([Range(0, 16 * PAGE), Range(20 * PAGE, 20 * PAGE)], {}), Collected())
    assert found.complete
    assert list(found.removed) == [Range(8 * PAGE, 8 * PAGE), Range(30 * PAGE, 4 * PAGE)]
    assert list(found.added) == [Range(60 * PAGE, PAGE)]
