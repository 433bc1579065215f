"""What sources read inside a guest, and how that is put beside what QEMU saw."""

from __future__ import annotations

import array
import json
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine.test_guest import PAGE, Memory, mapped, programs, resources

if TYPE_CHECKING:
    from memdump.machine.manifest import Manifest
    from tests.lab.guests import Made


def left(guest: Made, name: str) -> dict[str, Any]:
    """The report that a guest left under that name."""
    path = guest.folder / name
    if not path.exists():
        pytest.skip(f"this guest is older than its {name} (MEMDUMP_LAB_KEEP=1 kept it)")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def dumped(guest: Made, name: str) -> Memory:
    """The memory in an ELF core by QEMU."""
    data = mapped(guest.folder / name)
    parts = [(physical, offset, size) for kind, offset, physical, size in programs(data) if kind == 1]
    return Memory(data, parts)


def check_beside_kcore(guest: Made, compared: dict[str, Any], source: str) -> None:
    """A block is read twice within milliseconds; what differs is what reads, and the buffers read into."""
    total = compared["same"] + compared["different"]
    for name, seconds in compared["seconds"].items():
        print(f"{guest.name}: {name} {total * PAGE / 1e6 / seconds:.0f} MB/s")
    print(f"{guest.name}: {compared['same'] / total:.2%} of {total} pages are the same")
    assert compared["unreadable"] == {"kcore": 0, source: 0}
    assert compared["same"] / total > 0.98


def check_beside_qemu(guest: Made, name: str, dump: Memory, record: Manifest, unchanged: float) -> None:
    """The checksums of all pages that a source left: all of the kernel's constants, and most of the rest."""
    ours = array.array("I", (guest.folder / name).read_bytes())
    theirs = array.array("I")
    kernel = []
    ((first, last),) = resources(guest, "Kernel rodata")
    for found in record.ranges:
        memory = dump.at(found.start, found.size)
        for at in range(0, found.size, PAGE):
            if first <= found.start + at <= last:
                kernel.append(len(theirs))
            theirs.append(zlib.crc32(memory[at : at + PAGE]))
    assert len(ours) == len(theirs)
    assert len(kernel) > 256
    assert [ours[index] for index in kernel] == [theirs[index] for index in kernel]
    same = sum(map(int.__eq__, ours, theirs)) / len(ours)
    print(f"{guest.name}: {same:.2%} of {len(ours)} pages are what QEMU saw")
    assert same >= unchanged
