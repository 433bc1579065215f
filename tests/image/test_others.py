"""Images that other programs took of a guest: LiME's module, and AVML.

Their truth is what the guest told of itself, what QEMU saw before and after, and AVML's own converter.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import memdump
from memdump.cli import main
from memdump.image import open_image
from memdump.machine import manifest
from tests.lab.others import lacking
from tests.machine import readings
from tests.machine.readings import Memory
from tests.tables import proc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memdump.dump import Dump
    from tests.lab.guests import Made

STANDING_STILL = ("shell_history", "mounts", "interfaces", "neighbours")
"""Tables whose rows are the same as long as nobody does anything."""


class Taken(NamedTuple):
    """An image, and what QEMU wrote before it was taken and after."""

    name: str
    format: str
    program: str
    """The file of the program that took it."""
    before: str
    after: str


IMAGES = (
    Taken("lime.lime", "lime", "lime.ko", "after-ascending.elf", "after-lime.elf"),
    Taken("avml.lime", "lime", "avml", "after-lime.elf", "after-avml.elf"),
    Taken("avml.packed", "avml", "avml", "after-avml.elf", "after-avml-compressed.elf"),
)


@pytest.fixture(scope="module", params=IMAGES, ids=lambda taken: taken.name)
def taken(request: pytest.FixtureRequest, others: Made) -> Taken:
    found: Taken = request.param
    if reason := lacking(others).get(found.program):
        pytest.skip(f"the guest had no {found.program}: {reason}")
    return found


@pytest.fixture(scope="module")
def path(others: Made, taken: Taken) -> Path:
    return others.folder / taken.name


@pytest.fixture(scope="module")
def plain(path: Path, taken: Taken, request: pytest.FixtureRequest) -> Memory:
    """What is in the image: by the words of LiME's documentation, or as AVML's converter has it."""
    if taken.program == "lime.ko":
        return readings.lime(path)
    avml, folder = (request.getfixturevalue(name) for name in ("avml", "tmp_path_factory"))
    source = "lime_compressed" if taken.format == "avml" else "lime"
    raw = readings.mapped(convert(avml, path, source, "raw", folder.mktemp("avml") / "raw"))
    return Memory(raw, [(0, 0, len(raw))])


@pytest.fixture(scope="module")
def dump(path: Path) -> Iterator[Dump]:
    with memdump.open(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def ours(others: Made) -> Iterator[Dump]:
    """What memdump took of the same guest."""
    with memdump.open(others.lime_image) as opened:
        yield opened


def convert(avml: Path, image: Path, source: str, target: str, out: Path) -> Path:
    """What AVML makes of an image."""
    options = ["--source-format", source, "--format", target]
    subprocess.run([avml, "convert", *options, image, out], check=True, capture_output=True)
    return out


def test_it_is_recognised_and_whole(others: Made, taken: Taken, path: Path) -> None:
    with open_image(path) as image, open_image(others.lime_image) as own:
        assert (image.format, image.defects) == (taken.format, [])
        assert readings.joined(own.ranges) == readings.whole_pages(others)
        found = readings.joined(image.ranges)
    if taken.program == "lime.ko":  # it writes the part of a page before the BIOS too, as zeros
        assert found == [(first, last + 1) for first, last in readings.resources(others, "System RAM")]
    else:  # AVML may leave out blocks of 16 MiB that are all zero
        whole = readings.whole_pages(others)
        assert all(any(first <= start < end <= last for first, last in whole) for start, end in found)
        assert sum(end - start for start, end in found) > 400 << 20


def test_every_byte_is_what_stands_in_the_file(path: Path, plain: Memory) -> None:
    size = 0
    with open_image(path) as image:
        for address, data in image.chunks():
            assert bytes(data) == plain.at(address, len(data)), f"at {address:#x}"
            size += len(data)
        assert size == image.size


def test_pages_that_did_not_change_are_what_qemu_saw(others: Made, taken: Taken, plain: Memory) -> None:
    own = manifest.load(f"{others.lime_image}.json")
    before, after = (readings.dumped(others, name) for name in (taken.before, taken.after))
    theirs = readings.sums(plain, own.ranges)
    readings.check_beside_qemu(others, theirs, before, after, own, readings.FILLED)


def test_info_tells_its_kernel(
    others: Made, path: Path, taken: Taken, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(path)]) == 0
    told = capsys.readouterr().out
    release, machine = others.truth["machine"]["uname"][2], others.truth["machine"]["uname"][4]
    assert f"Linux {release} ({machine}, 4 levels of pages)" in told
    assert f"format    {taken.format}\n" in told


def test_the_system_is_that_of_uname(others: Made, dump: Dump) -> None:
    (row,) = dump.table("system")
    _, hostname, release, version, machine = others.truth["machine"]["uname"]
    assert (row.hostname, row.kernel_release) == (hostname, release)
    assert (row.kernel_version, row.architecture) == (version, machine)
    assert row.command_line == others.truth["machine"]["cmdline"].removesuffix("\n")


def test_the_processes_are_those_of_proc(others: Made, dump: Dump) -> None:
    found = {row.pid: row for row in dump.table("processes")}
    told = proc.processes(others)
    assert set(told) <= set(found)
    for pid, process in told.items():
        row, stat, status = found[pid], proc.stat(process["stat"]), proc.status(process["status"])
        assert (row.name, row.ppid, row.session) == (stat[2], int(stat[4]), int(stat[6]))
        assert row.kernel_thread == process["kernel_thread"]
        assert [row.uid, row.euid] == [int(uid) for uid in status["Uid"].split()[:2]]
        assert row.executable == (process["exe"] and process["exe"].removesuffix(proc.DELETED))
        if pid != proc.recorder(others) and not row.kernel_thread:
            assert row.state == stat[3]
    assert not dump.problems


def test_the_rows_are_those_of_our_own_image(others: Made, dump: Dump, ours: Dump) -> None:
    recorded = {
        pid
        for pid, found in proc.processes(others).items()
        if not found["kernel_thread"] and pid != proc.recorder(others)
    }

    def rows(dump: Dump, table: str) -> list[Any]:
        return [row for row in dump.table(table) if getattr(row, "pid", None) in {None, *recorded}]

    for table in ("processes", "open_files", "environment"):
        found = rows(dump, table)
        assert found == rows(ours, table)
        assert {row.pid for row in found} <= recorded
        assert len(found) > 20
    for table in STANDING_STILL:
        assert list(dump.table(table)) == list(ours.table(table))


@pytest.mark.parametrize("name", ["memory.lime", "ascending.lime"])
def test_avml_gives_back_the_same_bytes_of_what_we_took(
    others: Made, avml: Path, tmp_path: Path, name: str
) -> None:
    ours = readings.lime(others.folder / name)
    packed = convert(avml, others.folder / name, "lime", "lime_compressed", tmp_path / "packed")
    back = readings.lime(convert(avml, packed, "lime_compressed", "lime", tmp_path / "back"))
    raw = readings.mapped(convert(avml, others.folder / name, "lime", "raw", tmp_path / "raw"))
    kept = {start for start, _, _ in back.parts}
    assert kept
    with open_image(packed) as opened:
        assert (opened.format, opened.defects) == ("avml", [])
        for start, _, size in ours.parts:
            content = ours.at(start, size)
            assert raw[start : start + size] == content
            if start in kept:
                assert back.at(start, size) == content
                assert opened.read(start, size) == content
            else:  # AVML leaves out blocks that are all zero
                assert not content.strip(b"\0")
