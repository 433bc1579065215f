"""What ``/dev/mem`` gave inside real guests, made to give all of it, beside what kcore and QEMU gave."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import readings
from tests.machine.readings import guest, record

if TYPE_CHECKING:
    from memdump.machine.manifest import Manifest
    from tests.lab.guests import Made

__all__ = ["guest", "record"]


@pytest.fixture(scope="module")
def report(guest: Made) -> dict[str, Any]:
    """What `tests.lab.inside.devmem` left."""
    return readings.left(guest, "devmem.json")


def test_devmem_and_kcore_read_the_same(guest: Made, report: dict[str, Any]) -> None:
    readings.check_beside_kcore(guest, report["compared"], "devmem")


def test_vmcoreinfo_is_the_same(report: dict[str, Any]) -> None:
    by_kcore, by_devmem = report["vmcoreinfo"]
    assert by_kcore.startswith("OSRELEASE=")
    assert by_devmem == by_kcore


def test_where_kcore_is_masked_devmem_is_taken(report: dict[str, Any]) -> None:
    assert report["masked"] == "devmem"


def test_pages_that_did_not_change_are_what_qemu_saw(guest: Made, record: Manifest) -> None:
    before, after = (readings.dumped(guest, name) for name in ("latest.elf", "last.elf"))
    ours = array.array("I", (guest.folder / "devmem.crc").read_bytes())
    readings.check_beside_qemu(guest, ours, before, after, record)
