from __future__ import annotations

import contextlib
import errno
import os
import random
from typing import TYPE_CHECKING

import pytest

from memdump.errors import NotPermitted
from memdump.machine import host, lockdown
from memdump.machine.crashdev import CrashSource
from memdump.machine.devmem import DevmemSource
from memdump.machine.pieces import read_block
from memdump.machine.source import Range
from tests.machine.fake_kcore import IOMEM, PAGE, note

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOTH = pytest.mark.parametrize("source_type", [DevmemSource, CrashSource])


class Device:
    """A file that stands in for the device: memory at its physical address, and a list of what was read."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "device"
        self.iomem = folder / "iomem"
        self.iomem.write_text(IOMEM)
        self.memory = random.Random(0).randbytes(0x400000)
        self.path.write_bytes(self.memory)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    def unknown(first: int, count: int) -> bytes:
        raise FileNotFoundError

    monkeypatch.setattr(host, "page_flags", unknown)
    return Device(tmp_path)


def opened(source_type: type[DevmemSource | CrashSource], device: Device) -> DevmemSource | CrashSource:
    return source_type(str(device.path), str(device.iomem))


def refusing(number: int, where: Callable[[int], bool]) -> Callable[..., int]:
    """A preadv that answers an error for some addresses."""
    real = os.preadv

    def preadv(file: int, buffers: list[memoryview], offset: int) -> int:
        if where(offset):
            raise OSError(number, os.strerror(number))
        return real(file, buffers, offset)

    return preadv


@BOTH
def test_every_range_reads_as_the_true_bytes(source_type: type[DevmemSource], device: Device) -> None:
    with contextlib.closing(opened(source_type, device)) as source:
        assert source.ranges() == [Range(0x1000, 0x27000), Range(0x100000, 0x300000)]
        for found in source.ranges():
            buffer = bytearray(found.size)
            source.read_into(found.start, memoryview(buffer))
            assert buffer == device.memory[found.start : found.end]


@BOTH
def test_vmcoreinfo_is_read_where_the_kernel_says(
    source_type: type[DevmemSource], device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = b"OSRELEASE=6.1.0\n"
    device.path.write_bytes(device.memory[:0x123000] + note(b"VMCOREINFO", 0, text).ljust(PAGE, b"\0"))
    os.truncate(device.path, 0x400000)
    (tmp_path / "vmcoreinfo").write_text("0x0000000000123000 1024\n")
    monkeypatch.setattr("memdump.machine.vmcoreinfo.PATH", str(tmp_path / "vmcoreinfo"))
    with contextlib.closing(opened(source_type, device)) as source:
        assert source.vmcoreinfo == text.decode()


@BOTH
def test_nothing_outside_system_ram_is_ever_read(
    source_type: type[DevmemSource], device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    ram = [Range(0x1000, 0x27000), Range(0x100000, 0x300000)]

    def guarded(file: int, buffers: list[memoryview], offset: int) -> int:
        size = sum(map(len, buffers))
        assert any(found.start <= offset and offset + size <= found.end for found in ram)
        return real(file, buffers, offset)

    real = os.preadv
    monkeypatch.setattr(os, "preadv", guarded)
    with contextlib.closing(opened(source_type, device)) as source:
        for address, size in (
            (0, PAGE),
            (0x27000, 0x2000),
            (0x28000, PAGE),
            (0x3FF000, 0x1001),
            (1 << 40, 1),
        ):
            with pytest.raises(OSError, match="not system RAM"):
                source.read_into(address, memoryview(bytearray(size)))
        for found in ram:
            assert read_block(source, found.start, memoryview(bytearray(found.size)), PAGE) == []


@BOTH
def test_pages_that_fault_are_found_and_the_rest_read(
    source_type: type[DevmemSource], device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {0x110000, 0x200000}
    real = os.preadv

    def preadv(file: int, buffers: list[memoryview], offset: int) -> int:
        """As the kernel does: what comes before the page that faults is read."""
        size = sum(map(len, buffers))
        ahead = [page for page in bad if offset <= page < offset + size]
        if not ahead:
            return real(file, buffers, offset)
        if min(ahead) == offset:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        data = device.memory[offset : min(ahead)]
        for buffer in buffers:
            part, data = data[: len(buffer)], data[len(buffer) :]
            buffer[: len(part)] = part
        return min(ahead) - offset

    with contextlib.closing(opened(source_type, device)) as source:
        monkeypatch.setattr(os, "preadv", preadv)
        buffer = bytearray(0x300000)
        lost = read_block(source, 0x100000, memoryview(buffer), PAGE)
        assert lost == [Range(page, PAGE) for page in sorted(bad)]
        expected = bytearray(device.memory[0x100000:])
        for page in bad:
            expected[page - 0x100000 : page - 0x100000 + PAGE] = bytes(PAGE)
        assert buffer == expected


@BOTH
def test_a_device_that_ends_early_is_an_error_and_not_zeros(
    source_type: type[DevmemSource], device: Device
) -> None:
    with contextlib.closing(opened(source_type, device)) as source:
        os.truncate(device.path, 0x200800)
        with pytest.raises(OSError, match="ends before"):
            source.read_into(0x200000, memoryview(bytearray(0x2000)))


def test_a_restricted_devmem_is_told(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    # Below 1 MiB even a kernel that restricts it gives something, so what is there is no test.
    monkeypatch.setattr(os, "preadv", refusing(errno.EPERM, lambda address: address >= 1 << 20))
    with pytest.raises(NotPermitted, match=r"this kernel restricts /dev/mem \(CONFIG_STRICT_DEVMEM\)"):
        opened(DevmemSource, device)


@BOTH
def test_a_device_that_cannot_be_read_is_told(
    source_type: type[DevmemSource], device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "preadv", refusing(errno.EIO, lambda _: True))
    with pytest.raises(NotPermitted, match="Input/output error"):
        opened(source_type, device)


@pytest.mark.parametrize(
    ("number", "level", "words"),
    [
        (errno.EPERM, "integrity", r"locked down \(integrity\)"),
        (errno.EPERM, "none", "run as root .* CAP_SYS_RAWIO"),
        (errno.EACCES, "integrity", "run as root .* CAP_SYS_RAWIO"),
        (errno.ENXIO, "none", "No such device"),
    ],
)
def test_what_keeps_devmem_closed_is_told(
    device: Device, monkeypatch: pytest.MonkeyPatch, number: int, level: str, words: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lockdown, "level", lambda: level)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NotPermitted, match=words):
        opened(DevmemSource, device)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("none integrity [confidentiality]\n", "confidentiality"),
        ("none [integrity] confidentiality\n", "integrity"),
        ("[none] integrity confidentiality\n", "none"),
        ("", "none"),
        (None, "none"),
    ],
)
def test_the_level_of_lockdown_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, level: str
) -> None:
    if text is not None:
        (tmp_path / "lockdown").write_text(text)
    monkeypatch.setattr(lockdown, "PATH", str(tmp_path / "lockdown"))
    assert lockdown.level() == level


def test_a_kernel_without_devmem_is_told(device: Device) -> None:
    device.path.unlink()
    with pytest.raises(NotPermitted, match="CONFIG_DEVMEM"):
        opened(DevmemSource, device)
