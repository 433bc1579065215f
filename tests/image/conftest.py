from __future__ import annotations

import mmap
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from memdump.image import open_image
from memdump.image.elfwriter import write_elf
from memdump.machine.output import Output
from memdump.machine.source import Range

from . import qemu as machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from memdump.image.base import Image


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], Image]:
    """Opens bytes as an image."""

    def open_bytes(content: bytes) -> Image:
        path = tmp_path / "image"
        path.write_bytes(content)
        return open_image(path)

    return open_bytes


@pytest.fixture(scope="session")
def qemu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the dumps that QEMU made of a 64-bit guest."""
    return _dumped(tmp_path_factory.mktemp("qemu"), long_mode=True)


@pytest.fixture(scope="session")
def qemu32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the dumps that QEMU made of a guest in 32-bit mode."""
    return _dumped(tmp_path_factory.mktemp("qemu32"), long_mode=False)


def _dumped(folder: Path, *, long_mode: bool) -> Path:
    tool("qemu-system-x86_64", "apt install qemu-system-x86")
    machine.dump(folder, long_mode=long_mode)
    return folder


def tool(name: str, how: str) -> str:
    """The path of a program; the test is skipped where it is missing."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: {how}")
    return path


class Core:
    """A core as readelf says it is: the truth that does not come from memdump."""

    LOAD = re.compile(r"^\s+LOAD\s+(0x\w+) 0x\w+ (0x\w+) (0x\w+) ", re.MULTILINE)

    def __init__(self, path: Path) -> None:
        listed = subprocess.run(["readelf", "-lW", path], check=True, capture_output=True, text=True).stdout
        self.segments = [tuple(int(number, 16) for number in found) for found in self.LOAD.findall(listed)]
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    @property
    def ranges(self) -> tuple[Range, ...]:
        return tuple(Range(start, size) for _, start, size in self.segments)

    def read(self, address: int, size: int) -> bytes:
        """Bytes that lie in one segment."""
        for offset, start, length in self.segments:
            if start <= address and address + size <= start + length:
                begin = offset + address - start
                return self._map[begin : begin + size]
        raise AssertionError(f"{address:#x} is in no segment")


class Linux(NamedTuple):
    """A guest that ran Linux."""

    dump: Path
    """As QEMU wrote it."""
    truth: Core
    vmcoreinfo: bytes
    core: Path
    """As memdump wrote it, with the VMCOREINFO note that QEMU has not."""


@pytest.fixture(scope="session")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Linux:
    """A dump of a guest that runs Linux, and where its kernel says that its VMCOREINFO note is."""
    folder = Path(os.environ.get("MEMDUMP_TEST_IMAGE", "/nowhere"))
    dump, place = folder / "image.elf", folder / "share" / "vmcoreinfo"
    if not dump.exists():
        pytest.skip("MEMDUMP_TEST_IMAGE names no folder with image.elf and share/vmcoreinfo")
    truth = Core(dump)
    address, size = (int(number, 16) for number in place.read_text().split())
    note = truth.read(address, size)
    length = int.from_bytes(note[4:8], "little")
    vmcoreinfo = note[24 : 24 + length].rstrip(b"\0")
    core = tmp_path_factory.mktemp("linux") / "core"
    with open_image(dump) as image, Output(core) as out:
        write_elf(image, out, vmcoreinfo)
        out.commit()
    return Linux(dump, truth, vmcoreinfo, core)
