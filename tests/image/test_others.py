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
from tests.lab import takers
from tests.lab.others import lacking
from tests.machine import readings
from tests.tables import proc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memdump.dump import Dump
    from tests.lab.guests import Made
    from tests.machine.readings import Memory

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
def plain(path: Path, taken: Taken, avml_scratch: Path) -> Memory:
    """What is in the image, by the words of LiME's documentation; AVML itself unpacks what it packed."""
    if taken.format == "avml":
        return readings.lime(converted(path, "lime_compressed", "lime", avml_scratch / taken.name))
    return readings.lime(path)


@pytest.fixture(scope="module")
def avml_scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("avml")


@pytest.fixture(scope="module")
def dump(path: Path) -> Iterator[Dump]:
    with memdump.open(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def ours(others: Made) -> Iterator[Dump]:
    """What memdump took of the same guest."""
    with memdump.open(others.lime_image) as opened:
        yield opened


def converted(image: Path, source: str, target: str, out: Path) -> Path:
    """What AVML makes of an image."""
    options = ["--source-format", source, "--format", target]
    subprocess.run([takers.avml(), "convert", *options, image, out], check=True, capture_output=True)
    return out


def test_it_is_recognised_and_whole(others: Made, taken: Taken, path: Path) -> None:
    with open_image(path) as image, open_image(others.lime_image) as own:
        assert (image.format, image.defects) == (taken.format, [])
        assert readings.joined(own.ranges) == readings.whole_pages(others)
        found = readings.joined(image.ranges)
    if taken.program == "lime.ko":  # it writes the part of a page before the BIOS too, as zeros
        assert found == [(first, last + 1) for first, last in readings.resources(others, "System RAM")]
    else:
        assert found == readings.whole_pages(others)


def test_every_byte_is_what_stands_in_the_file(path: Path, plain: Memory) -> None:
    size = 0
    with open_image(path) as image:
        for address, data in image.chunks():
            assert bytes(data) == plain.at(address, len(data)), f"at {address:#x}"
            size += len(data)
        assert size == image.size > 500 << 20


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
def test_avml_reads_what_we_took_and_gives_the_same_bytes_back(
    others: Made, avml_scratch: Path, name: str
) -> None:
    if reason := lacking(others).get("avml"):
        pytest.skip(f"AVML is not to be had: {reason}")
    image, packed = others.folder / name, avml_scratch / f"{name}.packed"
    ours = readings.lime(image)
    converted(image, "lime", "lime_compressed", packed)
    theirs = readings.lime(converted(packed, "lime_compressed", "lime", avml_scratch / f"{name}.lime"))
    with open_image(packed) as opened:
        assert (opened.format, opened.defects) == ("avml", [])
        size = 0
        for address, data in opened.chunks():
            content = ours.at(address, len(data))
            assert bytes(data) == content, f"at {address:#x}"
            assert theirs.at(address, len(data)) == content, f"at {address:#x}"
            size += len(data)
        # AVML leaves out blocks that are all zero.
    left_out = sum(length for _, _, length in ours.parts) - size
    assert left_out >= 0
