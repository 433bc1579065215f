"""What is special about the crash driver; `test_devmem` has what it shares with ``/dev/mem``."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

import pytest

from memdump.errors import NotPermitted
from memdump.machine import crashdev
from memdump.machine.crashdev import CrashSource
from tests.machine.fake_kcore import PAGE
from tests.machine.test_devmem import Device, device

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["device"]


def test_no_read_goes_beyond_a_page_which_the_driver_refuses(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system hands a read with many buffers to a driver that knows only reads with one."""

    def preadv(file: int, buffers: list[memoryview], offset: int) -> int:
        assert len(buffers) <= os.sysconf("SC_IOV_MAX")
        done = 0
        for buffer in buffers:
            place = offset + done
            if place // PAGE != (place + len(buffer) - 1) // PAGE:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            buffer[:] = device.memory[place : place + len(buffer)]
            done += len(buffer)
        return done

    device.memory *= 3
    device.iomem.write_text("00100000-00bfffff : System RAM\n")
    monkeypatch.setattr(os, "preadv", preadv)
    with contextlib.closing(CrashSource(str(device.path), str(device.iomem))) as source:
        for address, size in ((0x100000, 0xB00000), (0x100001, 0x1FFE), (0x1017FF, 1), (0x101FFF, 0x1002)):
            buffer = bytearray(size)
            source.read_into(address, memoryview(buffer))
            assert buffer == device.memory[address : address + size]


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ("kernel/drivers/char/crash.ko.xz:\nextra/x.ko:\n", "modprobe crash"),
        ("kernel/drivers/char/crash_dump.ko:\n", "no crash driver"),
        (None, "no crash driver"),
    ],
)
def test_a_driver_that_is_not_loaded_is_told_and_not_loaded(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch, modules: str | None, words: str
) -> None:
    folder = tmp_path / os.uname().release
    folder.mkdir()
    if modules is not None:
        (folder / "modules.dep").write_text(modules)
    monkeypatch.setattr(crashdev, "MODULES", str(tmp_path))
    device.path.unlink()
    with pytest.raises(NotPermitted, match=words):
        CrashSource(str(device.path), str(device.iomem))


def test_a_driver_that_is_not_ours_to_open_is_told(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NotPermitted, match="run as root"):
        CrashSource(str(device.path), str(device.iomem))
