from __future__ import annotations

import mmap
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from memdump.image import open_image
from memdump.image.elfwriter import write_elf
from memdump.machine.output import Output
from memdump.machine.source import Range
from tests.conftest import made
from tests.lab import cache, takers

from . import qemu as machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


@pytest.fixture(scope="session")
def avml() -> Path:
    """AVML, where it is there; the lab builds it for its guests."""
    try:
        return takers.avml(build=False)
    except cache.NoLab as error:
        pytest.skip(str(error))


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
    kallsyms: Path

    @property
    def direct_map(self) -> int:
        """What the kernel's variable ``page_offset_base`` says."""
        found = re.search(r"^(\w+) \w page_offset_base$", self.kallsyms.read_text(), re.MULTILINE)
        phys_base = re.search(rb"NUMBER\(phys_base\)=(-?\d+)", self.vmcoreinfo)
        assert found is not None
        assert phys_base is not None
        physical = int(found[1], 16) - 0xFFFFFFFF80000000 + int(phys_base[1])
        return int.from_bytes(self.truth.read(physical, 8), "little")


@pytest.fixture(scope="session")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Linux:
    """A guest of the lab, whose kernel says where its VMCOREINFO note is."""
    guest = made("6.12")
    truth = Core(guest.qmp_image)
    address, size = (int(number, 16) for number in guest.truth["machine"]["vmcoreinfo"].split())
    note = truth.read(address, size)
    length = int.from_bytes(note[4:8], "little")
    vmcoreinfo = note[24 : 24 + length].rstrip(b"\0")
    core = tmp_path_factory.mktemp("linux") / "core"
    with open_image(guest.qmp_image) as image, Output(core) as out:
        write_elf(image, out, vmcoreinfo)
        out.commit()
    return Linux(guest.qmp_image, truth, vmcoreinfo, core, guest.folder / "kallsyms")
