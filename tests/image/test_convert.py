"""``memdump convert``, as a command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memdump.image import open_image
from tests.machine.test_manifest import SAMPLE

from . import build
from .conftest import Core
from .qemu import ROM, SIZE

if TYPE_CHECKING:
    from .conftest import Linux


NAMES = [("a.lime", "lime"), ("a.LIME", "lime"), ("a.raw", "raw"), ("a.core", "elf"), ("a.vmcore", "elf")]

LOAD = re.compile(r"^\s+LOAD\s+0x\w+ (0x\w+) (0x\w+) ", re.MULTILINE)


def convert(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "memdump", "convert", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("source", ["memory.elf", "memory.kdump"])
@pytest.mark.parametrize(("name", "kind"), NAMES)
def test_the_suffix_says_the_format(qemu: Path, tmp_path: Path, source: str, name: str, kind: str) -> None:
    out = tmp_path / name
    done = convert(qemu / source, out)
    assert (done.returncode, done.stdout) == (0, f"{out}\n")
    with open_image(out) as image:
        assert image.format == kind
        assert image.read(0, SIZE) == (qemu / "ram").read_bytes()
        assert image.read(*ROM) == (qemu / "rom").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_option_comes_before_the_suffix(qemu: Path, tmp_path: Path) -> None:
    out = tmp_path / "memory.raw"
    assert convert(qemu / "memory.elf", out, "--to", "lime").returncode == 0
    assert out.read_bytes()[:4] == b"EMiL"


def test_a_core_of_an_image_without_a_kernel_says_so(qemu: Path, tmp_path: Path) -> None:
    done = convert(qemu / "memory.elf", tmp_path / "core", "--to", "elf")
    assert done.returncode == 0
    assert done.stderr.startswith("memdump: no VMCOREINFO for crash and drgn goes into the ELF core: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.lab
def test_the_vmcoreinfo_of_the_kernel_goes_into_a_core(linux: Linux, tmp_path: Path) -> None:
    out = tmp_path / "out.core"
    done = convert(linux.dump, out)
    assert (done.returncode, done.stderr) == (0, "")
    with open_image(out) as image:
        assert image.vmcoreinfo is not None
        assert image.vmcoreinfo.strip() == linux.vmcoreinfo.strip()
    assert Core(out).ranges == linux.truth.ranges
    listed = subprocess.run(["readelf", "-lW", out], check=True, capture_output=True, text=True).stdout
    bases = {int(vaddr, 16) - int(paddr, 16) for vaddr, paddr in LOAD.findall(listed)}
    assert bases == {linux.direct_map}


def test_the_manifest_tells_what_the_format_does_not(tmp_path: Path) -> None:
    path, out = tmp_path / "a.lime", tmp_path / "b.core"
    path.write_bytes(build.lime([(0x40000000, b"A" * 8192)]))
    host = SAMPLE.host._replace(machine="aarch64")
    told = SAMPLE._replace(host=host, vmcoreinfo="OSRELEASE=6.12.1-arm64\n")
    Path(f"{path}.json").write_text(told.to_json())
    done = convert(path, out)
    assert (done.returncode, done.stderr) == (0, "")
    with open_image(out) as image:
        assert (image.architecture, image.vmcoreinfo) == ("aarch64", b"OSRELEASE=6.12.1-arm64\n")
    Path(f"{path}.json").unlink()
    assert convert(path, tmp_path / "c.core").stderr.startswith("memdump: no VMCOREINFO")


def test_an_unknown_suffix(qemu: Path, tmp_path: Path) -> None:
    done = convert(qemu / "memory.elf", tmp_path / "memory.img")
    assert (done.returncode, done.stdout) == (2, "")
    assert "add --to lime, --to raw or --to elf" in done.stderr


def test_nothing_is_written_over(qemu: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.lime"
    out.write_bytes(b"precious")
    done = convert(qemu / "memory.elf", out)
    assert done.returncode == 2
    assert "never written over" in done.stderr
    assert out.read_bytes() == b"precious"


def test_the_image_itself_is_not_the_output(tmp_path: Path) -> None:
    path = tmp_path / "a.lime"
    path.write_bytes(build.lime([(0, b"A" * 4096)]))
    (tmp_path / "b.lime").symlink_to(path)
    done = convert(path, tmp_path / "b.lime")
    assert done.returncode == 2
    assert "is the image itself" in done.stderr


def test_a_damaged_image_is_converted_and_said(tmp_path: Path) -> None:
    path, out = tmp_path / "a.lime", tmp_path / "b.raw"
    path.write_bytes(build.lime([(0, b"A" * 8192)])[:-96])
    done = convert(path, out)
    assert (done.returncode, done.stdout) == (1, f"{out}\n")
    assert done.stderr == f"memdump: {path}: truncated: the range at physical 0x0 has 8096 of 8192 bytes\n"
    assert out.read_bytes() == b"A" * 8096


def test_an_image_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.lime"
    path.write_bytes(b"no image")
    done = convert(path, tmp_path / "b.raw")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert [found.name for found in tmp_path.iterdir()] == ["a.lime"]


def test_no_room_leaves_nothing(qemu: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.lime"
    limited = "ulimit -f 1000; trap '' XFSZ; exec \"$@\""
    command = [sys.executable, "-m", "memdump", "convert", str(qemu / "memory.elf"), str(out)]
    done = subprocess.run(["bash", "-c", limited, "-", *command], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "nothing was kept" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
