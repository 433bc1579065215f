"""What ebpf read inside real guests, beside what kcore read just then and what QEMU had seen before."""

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
    """What `tests.lab.inside.sources` left."""
    return readings.left(guest, "sources.json")


def test_ebpf_and_kcore_read_the_same(guest: Made, report: dict[str, Any]) -> None:
    readings.check_beside_kcore(guest, report["compared"], "ebpf")


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


def test_pages_that_did_not_change_are_what_qemu_saw(guest: Made, record: Manifest) -> None:
    before, after = (readings.dumped(guest, name) for name in ("later.elf", "latest.elf"))
    ours = array.array("I", (guest.folder / "ebpf.crc").read_bytes())
    readings.check_beside_qemu(guest, ours, before, after, record)
