"""What makedumpfile writes, beside the dump that it was given."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from memdump.image import open_image

from .conftest import Linux, tool

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.lab

PAGE = 4096
WHOLE = ["-c -d 0", "-d 0", "-z -d 0", "-p -d 0", "-c -d 0 -F", "-E -d 0", "-E -d 0 -F"]
THINNED = ["-c -d 31", "-l -d 31", "-z -d 31", "-c -d 31 -F", "-E -d 31"]


def makedumpfile(linux: Linux, out: Path, options: str) -> str:
    """Run it and give what it reports."""
    program = tool("makedumpfile", "apt install makedumpfile")
    for option, name in (("-p", "snappy"), ("-z", "zstd")):
        enabled = subprocess.run([program, "-v"], check=True, capture_output=True, text=True).stdout
        if option in options.split() and not re.search(rf"^{name}\s+enabled", enabled, re.MULTILINE):
            pytest.skip(f"this makedumpfile is built without {name}")
    flat = "-F" in options.split()
    command = [program, "--message-level", "31", *options.split(), str(linux.core)]
    with out.open("wb") as stream:
        done = subprocess.run(
            command if flat else [*command, str(out)],
            check=True,
            stdout=stream if flat else subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    return ((done.stdout or b"") + done.stderr).decode()


@pytest.mark.parametrize("options", WHOLE)
def test_a_whole_dump_has_every_byte(linux: Linux, tmp_path: Path, options: str) -> None:
    out = tmp_path / "out"
    makedumpfile(linux, out, f"-f {options}")
    kind = "elf" if "-E" in options else "kdump"
    with open_image(out) as image:
        assert (image.format, image.architecture, image.defects) == (kind, "x86_64", [])
        assert image.vmcoreinfo is not None
        assert image.vmcoreinfo.rstrip() == linux.vmcoreinfo.rstrip()
        ram = linux.truth.ranges[0]
        assert image.ranges[0] == ram
        for address, data in image.chunks():
            assert bytes(data) == linux.truth.read(address, len(data)), f"at {address:#x}"


@pytest.mark.parametrize("options", THINNED)
def test_a_thinned_dump_has_what_was_kept(linux: Linux, tmp_path: Path, options: str) -> None:
    out = tmp_path / "out"
    report = makedumpfile(linux, out, f"-f {options}")
    counts = {name: int(count, 16) for name, count in re.findall(r"(\w[\w ]+?)\s*: 0x(\w+)", report)}
    # In a kdump, pages of zeros cost one descriptor each and are kept; in a core they may be left out.
    kept = counts["Remaining pages"] + counts["Pages filled with zero"]
    with open_image(out) as image:
        pages = 0
        for address, data in image.chunks():
            pages += len(data) // PAGE
            assert bytes(data) == linux.truth.read(address, len(data)), f"at {address:#x}"
        assert image.defects == []
    if "-E" in options:
        assert counts["Remaining pages"] <= pages <= kept
    else:
        assert pages == kept
