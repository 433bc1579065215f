"""What ``memdump acquire`` took inside real guests, beside what QEMU saw while they stood still."""

from __future__ import annotations

import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from memdump.machine import manifest
from tests.machine.readings import (
    Memory,
    check_beside_qemu,
    constants,
    dumped,
    guest,
    joined,
    lime,
    record,
    sums,
    whole_pages,
)

if TYPE_CHECKING:
    from memdump.machine.manifest import Manifest
    from tests.lab.guests import Made

__all__ = ["guest", "record"]


@pytest.fixture(scope="module")
def taken(guest: Made) -> Memory:
    return lime(guest.lime_image)


@pytest.fixture(scope="module")
def seen(guest: Made) -> Memory:
    """QEMU's ELF core from just before."""
    return dumped(guest, "memory.elf")


def test_the_ranges_are_the_system_ram_of_iomem(guest: Made, taken: Memory, record: Manifest) -> None:
    pieces = ((start, size) for start, _, size in taken.parts)
    assert joined(pieces) == whole_pages(guest)
    assert [(found.start, found.end) for found in record.ranges] == whole_pages(guest)
    assert record.unreadable == ()
    assert record.complete


def test_the_read_only_part_of_the_kernel_is_the_same_byte_for_byte(
    guest: Made, taken: Memory, seen: Memory
) -> None:
    first, last = constants(guest)
    size = last + 1 - first
    assert size > 1 << 20
    assert taken.at(first, size) == seen.at(first, size)


def test_pages_that_did_not_change_are_what_qemu_saw(
    guest: Made, taken: Memory, seen: Memory, record: Manifest
) -> None:
    later = dumped(guest, "later.elf")
    check_beside_qemu(guest, sums(taken, record.ranges), seen, later, record)


def test_the_manifest_describes_image_and_guest(guest: Made, record: Manifest) -> None:
    digest = subprocess.run(["sha256sum", guest.lime_image], check=True, capture_output=True, text=True)
    assert record.written
    assert record.stream.sha256 == record.written.sha256 == digest.stdout.split()[0]
    assert record.stream.size == record.written.size == guest.lime_image.stat().st_size
    assert record.written.name == guest.lime_image.name
    _, hostname, release, version, machine = guest.truth["machine"]["uname"]
    host = record.host
    assert (host.hostname, host.kernel_release) == (hostname, release)
    assert (host.kernel_version, host.machine) == (version, machine)


def test_vmcoreinfo_is_what_stands_in_memory_where_the_kernel_says(
    guest: Made, seen: Memory, record: Manifest
) -> None:
    address, size = (int(word, 16) for word in guest.truth["machine"]["vmcoreinfo"].split())
    note = seen.at(address, size)
    name_size, text_size, _ = struct.unpack_from("<III", note)
    assert note[12 : 12 + name_size] == b"VMCOREINFO\0"
    assert record.vmcoreinfo
    assert record.vmcoreinfo.encode() == note[24 : 24 + text_size]


def test_what_is_taken_in_the_order_of_addresses_is_what_qemu_saw(others: Made) -> None:
    path = others.folder / "ascending.lime"
    own = manifest.load(f"{path}.json")
    assert (own.source, own.order, own.complete) == ("kcore", "ascending", True)
    before, after = (dumped(others, name) for name in ("after-memory.elf", "after-ascending.elf"))
    check_beside_qemu(others, sums(lime(path), own.ranges), before, after, own)
