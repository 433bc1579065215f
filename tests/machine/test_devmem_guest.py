"""What ``/dev/mem`` gave inside real guests, made to give all of it, beside what kcore and QEMU gave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import readings
from tests.machine.test_guest import record

if TYPE_CHECKING:
    from memdump.machine.manifest import Manifest
    from tests.lab.guests import Made
    from tests.machine.test_guest import Memory

__all__ = ["record"]

UNCHANGED = 0.9
"""The least share of pages that are what QEMU saw just before: an interpreter and its buffers change some."""


@pytest.fixture(scope="module")
def report(guest: Made) -> dict[str, Any]:
    """What `tests.lab.inside.devmem` left."""
    return readings.left(guest, "devmem.json")


@pytest.fixture(scope="module")
def latest(guest: Made, report: dict[str, Any]) -> Memory:
    """QEMU's ELF core from just before."""
    return readings.dumped(guest, "latest.elf")


def test_devmem_and_kcore_read_the_same(guest: Made, report: dict[str, Any]) -> None:
    readings.check_beside_kcore(guest, report["compared"], "devmem")


def test_vmcoreinfo_is_the_same(report: dict[str, Any]) -> None:
    by_kcore, by_devmem = report["vmcoreinfo"]
    assert by_kcore.startswith("OSRELEASE=")
    assert by_devmem == by_kcore


def test_where_kcore_is_masked_devmem_is_taken(report: dict[str, Any]) -> None:
    assert report["masked"] == "devmem"


def test_pages_are_what_qemu_saw(guest: Made, latest: Memory, record: Manifest) -> None:
    readings.check_beside_qemu(guest, "devmem.crc", latest, record, UNCHANGED)
