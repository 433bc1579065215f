"""What ``/dev/mem`` gave inside real guests, made to give all of it, beside what kcore and QEMU gave."""

from __future__ import annotations

import array
import json
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine.test_guest import PAGE, Memory, mapped, programs, record, resources

if TYPE_CHECKING:
    from memdump.machine.manifest import Manifest
    from tests.lab.guests import Made

__all__ = ["record"]

UNCHANGED = 0.9
"""The least share of pages that are what QEMU saw just before: an interpreter and its buffers change some."""


@pytest.fixture(scope="module")
def report(guest: Made) -> dict[str, Any]:
    """What `tests.lab.inside.devmem` left."""
    path = guest.folder / "devmem.json"
    if not path.exists():
        pytest.skip("this guest is older than the reading of /dev/mem (MEMDUMP_LAB_KEEP=1 kept it)")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def latest(guest: Made, report: dict[str, Any]) -> Memory:
    """QEMU's ELF core from just before."""
    data = mapped(guest.folder / "latest.elf")
    parts = [(physical, offset, size) for kind, offset, physical, size in programs(data) if kind == 1]
    return Memory(data, parts)


def test_devmem_and_kcore_read_the_same(guest: Made, report: dict[str, Any]) -> None:
    compared = report["compared"]
    total = compared["same"] + compared["different"]
    for name, seconds in compared["seconds"].items():
        print(f"{guest.name}: {name} {total * PAGE / 1e6 / seconds:.0f} MB/s")
    print(f"{guest.name}: {compared['same'] / total:.2%} of {total} pages are the same")
    assert compared["unreadable"] == {"kcore": 0, "devmem": 0}
    # A block is read twice within milliseconds; what differs is what reads, and the buffers read into.
    assert compared["same"] / total > 0.98


def test_vmcoreinfo_is_the_same(report: dict[str, Any]) -> None:
    by_kcore, by_devmem = report["vmcoreinfo"]
    assert by_kcore.startswith("OSRELEASE=")
    assert by_devmem == by_kcore


def test_where_kcore_is_masked_devmem_is_taken(report: dict[str, Any]) -> None:
    assert report["masked"] == "devmem"


def test_pages_are_what_qemu_saw(guest: Made, latest: Memory, record: Manifest) -> None:
    ours = array.array("I", (guest.folder / "devmem.crc").read_bytes())
    theirs = array.array("I")
    kernel = []
    ((first, last),) = resources(guest, "Kernel rodata")
    for found in record.ranges:
        memory = latest.at(found.start, found.size)
        for at in range(0, found.size, PAGE):
            if first <= found.start + at <= last:
                kernel.append(len(theirs))
            theirs.append(zlib.crc32(memory[at : at + PAGE]))
    assert len(ours) == len(theirs)
    assert len(kernel) > 256
    assert [ours[index] for index in kernel] == [theirs[index] for index in kernel]
    same = sum(map(int.__eq__, ours, theirs)) / len(ours)
    print(f"{guest.name}: {same:.2%} of {len(ours)} pages are what QEMU saw")
    assert same >= UNCHANGED
