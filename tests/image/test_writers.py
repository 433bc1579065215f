"""What memdump writes, as other programs read it."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import drgn
import pytest

from memdump.errors import UsageError
from memdump.image import open_image
from memdump.image.elfwriter import write_elf
from memdump.image.lime import write_lime
from memdump.image.raw import write_raw
from memdump.machine.output import Output
from memdump.machine.source import Range

from . import build
from .conftest import Core, Linux, tool
from .qemu import ROM, SIZE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memdump.image.base import Image

VMCOREINFO = b"""OSRELEASE=6.1.0
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffffffff82a10000
NUMBER(phys_base)=0
KERNELOFFSET=0
"""
DIRECT = 0xFFFF9A4580000000
LAST_PAGES = [(0x1000, b"A" * 8192), (0x7000, b"B" * 100), (0x100000, b"C" * 4096)]


@pytest.fixture(scope="module")
def core(qemu: Path) -> Path:
    """The guest of QEMU as an ELF core by memdump."""
    path = qemu / "ours.elf"
    with open_image(qemu / "memory.kdump") as image, Output(path) as out:
        write_elf(image, out, VMCOREINFO, DIRECT)
        out.commit()
    return path


def test_readelf_sees_the_ranges(core: Path, qemu: Path) -> None:
    assert Core(core).ranges == Core(qemu / "memory.elf").ranges
    listed = subprocess.run(["readelf", "-hlnW", core], check=True, capture_output=True, text=True)
    assert listed.stderr == ""
    assert "CORE (Core file)" in listed.stdout
    assert "Advanced Micro Devices X86-64" in listed.stdout
    assert re.search(rf"VMCOREINFO\s+{len(VMCOREINFO):#010x}", listed.stdout)
    assert re.search(rf"LOAD\s+0x\w+ {DIRECT:#x} 0x0000000000000000 ", listed.stdout)


def test_the_bytes_are_those_of_the_memory(core: Path, qemu: Path) -> None:
    assert Core(core).read(0, SIZE) == (qemu / "ram").read_bytes()
    assert Core(core).read(*ROM) == (qemu / "rom").read_bytes()


def test_drgn_opens_it(core: Path, qemu: Path) -> None:
    program = drgn.Program()
    program.set_core_dump(core)
    assert program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL
    assert program["VMCOREINFO"].string_() == VMCOREINFO
    ram = (qemu / "ram").read_bytes()
    assert program.read(0x200000, 1 << 20, physical=True) == ram[0x200000:0x300000]
    assert program.read(DIRECT + 0x200000, 4096) == ram[0x200000:0x201000]


def test_gdb_opens_it(core: Path, qemu: Path) -> None:
    gdb = tool("gdb", "apt install gdb")
    copied = qemu / "by-gdb"
    command = f"dump binary memory {copied} {DIRECT + 0x200000} {DIRECT + 0x300000}"
    subprocess.run([gdb, "-q", "-nx", "-batch", "-ex", command, "-c", core], check=True, capture_output=True)
    assert copied.read_bytes() == (qemu / "ram").read_bytes()[0x200000:0x300000]


@pytest.mark.lab
def test_crash_finds_the_kernel(linux: Linux) -> None:
    crash = tool("crash", "apt install crash")
    release = re.search(rb"OSRELEASE=(.*)", linux.vmcoreinfo)
    assert release is not None
    said = subprocess.run([crash, "--osrelease", linux.core], check=True, capture_output=True)
    assert said.stdout.strip() == release[1]


@pytest.mark.lab
def test_drgn_follows_the_page_tables(linux: Linux) -> None:
    program = drgn.Program()
    program.set_core_dump(linux.core)
    release = program["UTS_RELEASE"].string_()
    banner = re.search(rb"SYMBOL\(init_uts_ns\)=(\w+)", linux.vmcoreinfo)
    assert banner is not None
    assert release in program.read(int(banner[1], 16), 500)


@pytest.mark.lab
def test_makedumpfile_reads_the_kernel_log(linux: Linux, tmp_path: Path) -> None:
    program = tool("makedumpfile", "apt install makedumpfile")
    log = tmp_path / "log"
    subprocess.run([program, "--dump-dmesg", linux.core, log], check=True, capture_output=True)
    assert b"Linux version " in log.read_bytes()


def test_70000_ranges(opened: Callable[[bytes], Image], tmp_path: Path) -> None:
    image = opened(build.lime([(number * 8192, b"%016d" % number) for number in range(70000)]))
    path = tmp_path / "core"
    with Output(path) as out:
        write_elf(image, out, None)
        out.commit()
    written = Core(path)
    assert len(written.ranges) == 70000
    assert written.read(69999 * 8192, 16) == b"%016d" % 69999


def test_lime_is_as_its_documentation_says(opened: Callable[[bytes], Image], tmp_path: Path) -> None:
    image = opened(build.elf([build.Load(start, data) for start, data in LAST_PAGES]))
    path = tmp_path / "lime"
    with Output(path) as out:
        write_lime(image, out)
        out.commit()
    assert path.read_bytes() == build.lime(LAST_PAGES)


def test_avml_reads_lime(qemu: Path, avml: Path, tmp_path: Path) -> None:
    path, raw = tmp_path / "lime", tmp_path / "raw"
    with open_image(qemu / "memory.elf") as image, Output(path) as out:
        image.ranges = (Range(0, SIZE),)  # avml writes gaps out, and the next range is far
        write_lime(image, out)
        out.commit()
    subprocess.run([avml, "convert", "--source-format", "lime", "--format", "raw", path, raw], check=True)
    assert raw.read_bytes() == (qemu / "ram").read_bytes()


def test_raw_has_every_byte_at_its_address(qemu: Path, tmp_path: Path) -> None:
    path = tmp_path / "raw"
    with open_image(qemu / "memory.elf") as image, Output(path) as out:
        write_raw(image, out)
        out.commit()
    assert path.stat().st_size == ROM[0] + ROM[1]
    assert path.stat().st_blocks * 512 <= SIZE + ROM[1] + (1 << 20), "gaps take no room"
    with path.open("rb") as file:
        assert file.read(SIZE) == (qemu / "ram").read_bytes()
        assert file.read(1 << 20) == bytes(1 << 20)
        file.seek(ROM[0])
        assert file.read() == (qemu / "rom").read_bytes()


def test_raw_is_refused_where_it_would_be_absurd(opened: Callable[[bytes], Image], tmp_path: Path) -> None:
    image = opened(build.lime([(0, b"A" * 4096), (1 << 60, b"B" * 4096)]))
    with pytest.raises(UsageError, match="--to lime"), Output(tmp_path / "raw") as out:
        write_raw(image, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image"]


@pytest.mark.parametrize("kind", ["lime", "raw", "elf"])
def test_unreadable_memory_leaves_what_follows_in_its_place(
    opened: Callable[[bytes], Image], tmp_path: Path, kind: str
) -> None:
    pages = {number: bytes([number, 0xC3]) * 2048 for number in [*range(8), 16, 255]}
    content = bytearray(build.kdump(pages))
    damaged = (3, 7)  # in the middle of a range, and at its end
    for number in damaged:
        content[4096 * 4 + 24 * number + 8] = 1  # the size of the page's data
    image = opened(bytes(content))
    path = tmp_path / kind
    with Output(path) as out:
        if kind == "elf":
            write_elf(image, out, None)
        else:
            (write_lime if kind == "lime" else write_raw)(image, out)
        out.commit()
    with open_image(path) as written:
        for number, page in pages.items():
            assert written.read(number * 4096, 4096) == (bytes(4096) if number in damaged else page)
        assert written.defects == []
    assert "8192 bytes in 2 places cannot be read" in image.defects[0]


def test_a_core_in_the_wrong_byte_order_is_not_written(
    opened: Callable[[bytes], Image], tmp_path: Path
) -> None:
    image = opened(build.elf([build.Load(0x1000, b"A" * 4096)], machine=22))
    with pytest.raises(UsageError, match="s390x is not written"), Output(tmp_path / "core") as out:
        write_elf(image, out, None)
