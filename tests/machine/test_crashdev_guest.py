"""What ``/dev/crash``, with the driver that comes with the crash utility, gave inside a real guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memdump.machine import manifest
from tests.lab.others import lacking
from tests.machine.readings import check_beside_qemu, dumped, lime, sums, whole_pages

if TYPE_CHECKING:
    from memdump.machine.manifest import Manifest
    from tests.lab.guests import Made


@pytest.fixture(scope="module")
def taken(others: Made) -> Manifest:
    """The manifest of what was taken through it."""
    if reason := lacking(others).get("crash.ko"):
        pytest.skip(f"no crash driver for the guest: {reason}")
    return manifest.load(f"{others.lime_image}.json")


def test_all_system_ram_is_taken_through_the_driver(others: Made, taken: Manifest) -> None:
    assert taken.source == "crash"
    assert [(found.start, found.end) for found in taken.ranges] == whole_pages(others)
    assert taken.unreadable == ()
    assert taken.complete


def test_the_kernels_own_pages_come_first(taken: Manifest) -> None:
    assert taken.order == "kernel-first"


def test_pages_that_did_not_change_are_what_qemu_saw(others: Made, taken: Manifest) -> None:
    before, after = (dumped(others, name) for name in ("memory.elf", "after-memory.elf"))
    check_beside_qemu(others, sums(lime(others.lime_image), taken.ranges), before, after, taken)


def test_vmcoreinfo_is_what_stands_in_memory_where_the_kernel_says(others: Made, taken: Manifest) -> None:
    address, size = (int(word, 16) for word in others.truth["machine"]["vmcoreinfo"].split())
    note = dumped(others, "memory.elf").at(address, size)
    length = int.from_bytes(note[4:8], "little")
    assert taken.vmcoreinfo
    assert taken.vmcoreinfo.encode() == note[24 : 24 + length]


@pytest.mark.usefixtures("taken")
def test_it_is_chosen_where_there_is_no_kcore(others: Made) -> None:
    said = (others.folder / "choose.log").read_text().splitlines()
    chosen = said.index("source        crash (offsets are physical addresses)")
    (kcore,) = (line for line in said[chosen + 1 :] if line.split()[:1] == ["kcore:"])
    assert not kcore.endswith("works here")
