from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from memdump.errors import NotADump, NotPermitted
from memdump.machine import lockdown as locking
from memdump.machine.kcore import KcoreSource
from memdump.machine.source import Range
from tests.machine.fake_kcore import DIRECT_MAP, PAGE, Machine, make, write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return make(tmp_path)


def opened(machine: Machine) -> KcoreSource:
    return KcoreSource(str(machine.kcore), str(machine.iomem))


def test_every_range_reads_as_the_true_bytes(machine: Machine) -> None:
    source = opened(machine)
    assert source.ranges() == [Range(0x1000, 0x27000), Range(0x100000, 0x300000)]
    assert source.direct_map == DIRECT_MAP
    assert source.vmcoreinfo == "OSRELEASE=6.1.0\n"
    for found in source.ranges():
        buffer = bytearray(found.size)
        source.read_into(found.start, memoryview(buffer))
        assert bytes(buffer) == machine.memory[found.start]
    source.close()


def test_ranges_are_of_whole_pages_of_the_host(machine: Machine) -> None:
    """Kernels for arm64 may have pages of 64 KiB; 0x1000 to 0x28000 has one of them."""

    class Large(KcoreSource):
        page_size = 0x10000

    source = Large(str(machine.kcore), str(machine.iomem))
    assert source.ranges() == [Range(0x10000, 0x10000), Range(0x100000, 0x300000)]
    source.close()


def test_a_file_whose_headers_took_another_page_is_read_at_its_new_places(machine: Machine) -> None:
    """As after memory was plugged in, and somebody opened kcore."""
    source = opened(machine)
    write(machine.kcore, machine.memory, more=80, shift=PAGE)
    for start, data in machine.memory.items():
        buffer = bytearray(len(data))
        source.read_into(start, memoryview(buffer))
        assert bytes(buffer) == data
    write(machine.kcore, machine.memory)
    buffer = bytearray(PAGE)
    source.read_into(0x100000, memoryview(buffer))
    assert bytes(buffer) == machine.memory[0x100000][:PAGE]
    source.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_file_that_changes_during_a_read_is_read_once_more(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    source = opened(machine)
    real = os.preadv

    def preadv(file: int, buffers: list[memoryview], offset: int) -> int:
        monkeypatch.undo()
        taken = real(file, [buffers[0][:PAGE]], offset)
        write(machine.kcore, machine.memory, more=80, shift=PAGE)
        if fails:
            raise OSError(errno.EIO, "Input/output error")
        return taken

    monkeypatch.setattr(os, "preadv", preadv)
    buffer = bytearray(3 * PAGE)
    source.read_into(0x100000, memoryview(buffer))
    assert bytes(buffer) == machine.memory[0x100000][: 3 * PAGE]
    source.close()


def test_a_file_that_changes_all_the_time_or_makes_no_sense_any_more_is_an_error(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(machine)
    fronts = iter(range(100))
    monkeypatch.setattr(source, "_front", lambda: bytes([next(fronts)]))
    with pytest.raises(OSError, match="moves all the time"):
        source.read_into(0x100000, memoryview(bytearray(PAGE)))
    monkeypatch.undo()
    with machine.kcore.open("r+b") as file:
        file.write(bytes(64))
    for _ in range(2):
        with pytest.raises(OSError, match="kcore has moved: not an ELF file"):
            source.read_into(0x100000, memoryview(bytearray(PAGE)))
    source.close()


@pytest.mark.parametrize(
    ("address", "size"), [(0, 1), (0x27000, 0x1001), (0x28000, 1), (0x3FFFFF, 2), (1 << 60, 1)]
)
def test_what_no_segment_holds_is_an_error_and_not_zeros(machine: Machine, address: int, size: int) -> None:
    source = opened(machine)
    with pytest.raises(OSError, match="does not hold") as caught:
        source.read_into(address, memoryview(bytearray(size)))
    assert caught.value.errno == errno.EFAULT
    source.close()


def test_a_file_that_ends_early_is_an_error_and_not_zeros(machine: Machine) -> None:
    os.truncate(machine.kcore, 0x10000 + 0x200000)
    source = opened(machine)
    with pytest.raises(OSError, match="ends before"):
        source.read_into(0x100000, memoryview(bytearray(0x300000)))
    source.close()


def test_a_kcore_that_a_container_masks_is_told_apart(machine: Machine) -> None:
    with pytest.raises(NotADump, match="container"):
        KcoreSource("/dev/null", str(machine.iomem))


def test_a_kernel_without_kcore_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotPermitted, match="CONFIG_PROC_KCORE"):
        KcoreSource(str(tmp_path / "kcore"))


@pytest.mark.parametrize(
    ("number", "lockdown", "words"),
    [
        (errno.EACCES, "none integrity [confidentiality]", "run as root"),
        (errno.EPERM, "none [integrity] confidentiality", "CAP_SYS_RAWIO"),
        (errno.EPERM, "none integrity [confidentiality]", "locked down"),
        (errno.EPERM, None, "CAP_SYS_RAWIO"),
    ],
)
def test_no_permission_says_what_would_permit_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, lockdown: str | None, words: str
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(number, os.strerror(number))

    if lockdown is not None:
        (tmp_path / "lockdown").write_text(lockdown)
    monkeypatch.setattr(locking, "PATH", str(tmp_path / "lockdown"))
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NotPermitted, match=words):
        KcoreSource()
