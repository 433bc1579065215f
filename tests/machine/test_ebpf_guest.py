"""What ebpf read inside real guests, beside what kcore read just then and what QEMU had seen before."""

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

UNCHANGED = 0.85
"""The least share of pages that are what QEMU saw: two interpreters and their buffers weigh much here."""


@pytest.fixture(scope="module")
def report(guest: Made) -> dict[str, Any]:
    """What `tests.lab.inside.sources` left."""
    path = guest.folder / "sources.json"
    if not path.exists():
        pytest.skip("this guest is older than the comparison of sources (MEMDUMP_LAB_KEEP=1 kept it)")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_ebpf_and_kcore_read_the_same(guest: Made, report: dict[str, Any]) -> None:
    compared = report["compared"]
    total = compared["same"] + compared["different"]
    megabytes = total * PAGE / 1e6
    for name, seconds in compared["seconds"].items():
        print(f"{guest.name}: {name} {megabytes / seconds:.0f} MB/s")
    print(f"{guest.name}: {compared['same'] / total:.2%} of {total} pages are the same")
    assert compared["unreadable"] == {"kcore": 0, "ebpf": 0}
    # A block is read twice within milliseconds; what differs is what reads, and the buffers read into.
    assert compared["same"] / total > 0.98


def test_the_direct_map_is_found_on_several_ways(guest: Made, report: dict[str, Any]) -> None:
    kind = "RAW_TRACEPOINT" if guest.name == "5.10" else "SYSCALL"
    start = f"BPF_PROG_TYPE_{kind}; direct map at {report['direct_map']:#x}: the address of the running task"
    page = "a page of our own at the address that pagemap gives"
    banner = "the kernel's banner at the addresses that iomem gives"
    assert report["evidence"] == f"{start}, proved by {page} and {banner}"
    assert report["without_kallsyms"] == report["kptr_restrict"] == report["evidence"]
    assert report["by_banner_alone"] == f"{start}, proved by {banner}"


def test_vmcoreinfo_is_the_same(report: dict[str, Any]) -> None:
    by_kcore, by_ebpf = report["vmcoreinfo"]
    assert by_kcore.startswith("OSRELEASE=")
    assert by_ebpf == by_kcore


def test_pages_that_are_in_no_direct_map_are_found_one_by_one(guest: Made, report: dict[str, Any]) -> None:
    secret = report["secret"]
    if secret is None:
        pytest.skip("this kernel has no secret memory")
    found = secret["found"]
    assert found["ebpf"] == {"lost": secret["pages"], "leaked": False}
    assert found["kcore"]["leaked"] is False


def test_sources_that_do_not_work_here_say_why(report: dict[str, Any]) -> None:
    assert report["restricted"] == {
        "kcore": "works here",
        "crash": "/dev/crash does not exist: this kernel has no crash driver, as Red Hat's have",
        "devmem": "this kernel restricts /dev/mem (CONFIG_STRICT_DEVMEM)",
        "ebpf": "works here",
    }


def test_where_kcore_is_masked_ebpf_is_taken(report: dict[str, Any]) -> None:
    masked = report["masked"]
    assert masked["chosen"] == "ebpf"
    assert list(masked["refused"]) == ["kcore", "crash", "devmem"]
    assert "in a container it is often masked" in masked["refused"]["kcore"]


@pytest.fixture(scope="module")
def later(guest: Made, report: dict[str, Any]) -> Memory:
    """QEMU's ELF core from just before."""
    data = mapped(guest.folder / "later.elf")
    parts = [(physical, offset, size) for kind, offset, physical, size in programs(data) if kind == 1]
    return Memory(data, parts)


def test_pages_are_what_qemu_saw(guest: Made, later: Memory, record: Manifest) -> None:
    ours = array.array("I", (guest.folder / "ebpf.crc").read_bytes())
    theirs = array.array("I")
    kernel = []
    ((first, last),) = resources(guest, "Kernel rodata")
    for found in record.ranges:
        memory = later.at(found.start, found.size)
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
