"""The memory of an arm64 machine: what else is asked of it than of all guests (`test_guest` and its like)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import drgn
import pytest

from memdump.cli import main
from memdump.image import open_image
from memdump.machine import manifest
from tests.conftest import made
from tests.lab.arm64 import HOLE
from tests.machine.readings import dumped, resources

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.guests import Made

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("guest arm64")]
BLOCK = 1 << 20


@pytest.fixture(scope="module")
def arm() -> Made:
    return made("arm64")


def test_memory_that_may_not_be_mapped_is_not_read(arm: Made) -> None:
    start, size = HOLE
    assert (start, start + size - 1) in resources(arm, "reserved")
    ranges = manifest.load(f"{arm.lime_image}.json").ranges
    assert (ranges[0].end, ranges[1].start) == (start, start + size)


def test_what_was_taken_from_outside_is_what_qemu_itself_wrote(arm: Made) -> None:
    """All of it: the guest stood still."""
    seen = dumped(arm, "last.elf")
    record = manifest.load(arm.folder / "outside.lime.zst.age.json")
    assert record.host.machine == "aarch64"
    assert list(record.ranges) == [(start, size) for start, _, size in seen.parts]
    with open_image(arm.folder / "outside.lime.zst.age", arm.folder / "key") as image:
        for one in record.ranges:
            for at in range(one.start, one.end, BLOCK):
                assert image.read(at, BLOCK) == seen.at(at, BLOCK), hex(at)


@pytest.mark.parametrize("name", ["memory.lime", "outside.lime.zst.age"])
def test_an_image_is_verified_elsewhere(arm: Made, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    key = ["--identity", str(arm.folder / "key")] * name.endswith(".age")
    assert main(["verify", str(arm.folder / name), *key]) == 0
    checks = dict(line.split()[:2][::-1] for line in capsys.readouterr().out.splitlines())
    assert (checks["manifest"], checks["file"], checks["stream"], checks["custody"]) == ("ok",) * 4


def test_an_image_is_described_elsewhere(arm: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(arm.lime_image)]) == 1
    told = capsys.readouterr()
    assert f"{HOLE[0] + HOLE[1]:#014x} - " in told.out
    assert "from kcore by memdump" in told.out
    assert told.err.count("\n") == 1


@pytest.mark.parametrize("words", ["triage", "show processes", "query"])
@pytest.mark.parametrize("name", ["memory.lime", "memory.elf"])
def test_a_question_about_its_kernel_is_refused_in_one_line(
    arm: Made, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *table = words.split()
    rest = table or (["select pid from processes"] if command == "query" else [])
    assert main([command, str(arm.folder / name), *rest]) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert "memory of aarch64, and memdump makes out kernels of x86-64 only" in told.err
    assert told.err.count("\n") == 1


def test_a_core_that_is_made_of_it_is_opened_by_drgn(
    arm: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core = tmp_path / "memory.core"
    assert main(["convert", str(arm.lime_image), str(core)]) == 0
    assert capsys.readouterr().err == ""
    program = drgn.Program()
    program.set_core_dump(core)
    assert program.platform
    assert program.platform.arch == drgn.Architecture.AARCH64
    found = re.search(r"^SYMBOL\(_stext\)=(\w+)$", program["VMCOREINFO"].string_().decode(), re.MULTILINE)
    assert found
    virtual = int(found[1], 16)
    ((code, _),) = resources(arm, "Kernel code")
    # The head of the image, which iomem counts as code, is in front of it.
    assert program.read(virtual, BLOCK) == dumped(arm, "memory.elf").at(code + virtual % (2 << 20), BLOCK)
