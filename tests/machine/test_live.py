"""What happens to a machine while its memory is taken, and what happens to it because of that."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from memdump.image import open_image
from memdump.machine.qemu import QemuSource
from tests.lab.live import MEMDUMP
from tests.machine import walk
from tests.machine.test_live_ssh import system_ram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.machine.source import Range
    from tests.lab.live import Live

PAGE = 4096
OUT = "/lab/out/test"
BUDDY, HWPOISON = 1 << 10, 1 << 19


@pytest.fixture(autouse=True)
def emptied(live: Live) -> None:
    live.run(f"rm -rf {OUT} && mkdir -p {OUT}")


def manifest(live: Live, name: str) -> Any:
    return json.loads(live.get(f"{OUT}/{name}.json"))


def memory_in(live: Live, name: str) -> int:
    live.put("/tmp/walk.py", Path(walk.__file__).read_bytes())
    return int(live.run(f"python3 /tmp/walk.py {OUT}/{name}").stdout)


def amount(ranges: list[tuple[str, int]]) -> int:
    return sum(size for _, size in ranges)


def page_flags(live: Live) -> tuple[int, ...]:
    data = live.run("cat /proc/kpageflags").stdout
    return struct.unpack(f"={len(data) // 8}Q", data)


def test_pages_that_nobody_may_touch_do_not_end_it(live: Live) -> None:
    """Guard pages of KFENCE fault; a page with a hardware error must not even be read."""
    bad = next(
        number
        for number, page in reversed([*enumerate(page_flags(live))])
        if page & BUDDY and number > 0x1000
    )
    live.run(f"echo {bad * PAGE:#x} > /sys/devices/system/memory/hard_offline_page")
    try:
        assert page_flags(live)[bad] & HWPOISON
        for source in ("kcore", "ebpf"):
            done = live.run(f"{MEMDUMP} acquire --source {source} {OUT}/{source}.lime", check=False)
            found = manifest(live, f"{source}.lime")
            assert found["complete"] is True
            assert done.returncode == 1, done.stderr
            # It is zeros to every source, which nobody must take for its contents.
            assert any(
                int(start, 16) <= bad * PAGE < int(start, 16) + size for start, size in found["unreadable"]
            )
            assert f"{amount(found['unreadable']):,} bytes could not be read" in done.stderr.decode()
            assert memory_in(live, f"{source}.lime") == amount(found["ranges"])
            live.run(f"rm {OUT}/{source}.lime")
        # The pages of KFENCE fault, where no kcore hides it.
        assert len(found["unreadable"]) > 5
    finally:
        live.run(f"modprobe hwpoison-inject; echo {bad:#x} > /sys/kernel/debug/hwpoison/unpoison-pfn")
    assert not page_flags(live)[bad] & HWPOISON


class Changed(NamedTuple):
    """An acquisition, and what happened to the machine's memory in the middle of it."""

    status: int
    said: str
    found: Any
    in_image: int
    before: list[Range]
    """What was system RAM by the word of ``/proc/iomem``."""
    after: list[Range]
    plugged_in: tuple[int, int]
    """By QEMU's word."""
    unplugged: tuple[int, int]
    offline: tuple[int, int]
    """By the guest's."""


@pytest.fixture(scope="module", params=["kcore", "ebpf"])
def changed(live: Live, request: pytest.FixtureRequest) -> Iterator[Changed]:
    """Change the memory of the guest while memdump, which has just begun with the image, holds its breath."""
    live.run(f"rm -rf {OUT} && mkdir -p {OUT}")
    try:
        offline, unplugged = live.plug("offline"), live.plug("unplugged")
        before = system_ram(live)
        command = f"{MEMDUMP} acquire --skip free --source {request.param} {OUT}/m.lime"
        with subprocess.Popen(live.command(command), stderr=subprocess.PIPE) as process:
            live.run(
                f"until [ -s {OUT}/m.lime.part ]; do sleep 0.1; done; pkill -STOP -f '[m]emdump acquire' &&"
                f" [ ! -e {OUT}/m.lime ]"
            )
            try:
                state = f"/sys/devices/system/memory/memory{offline[0] // offline[1]}/state"
                plugged_in = live.plug("plugged-in")
                live.run(f"echo offline > {state}")
                live.unplug("unplugged")
                live.run("head -c 1 /proc/kcore > /dev/null")  # has the kernel lay it out anew
                assert live.get(state) == b"offline\n"
            finally:
                live.run("pkill -CONT -f '[m]emdump acquire'")
            _, said = process.communicate()
        found, after = manifest(live, "m.lime"), system_ram(live)
        in_image = memory_in(live, "m.lime")
        yield Changed(
            process.returncode, said.decode(), found, in_image, before, after, plugged_in, unplugged, offline
        )
    finally:
        for name in live.plugged():
            live.unplug(name)


def ranges(found: Any) -> list[tuple[int, int]]:
    return [(int(start, 16), size) for start, size in found]


def test_memory_that_comes_and_goes_meanwhile_does_not_end_it(changed: Changed) -> None:
    found = changed.found
    assert found["complete"] is True
    assert found["order"] == "kernel-first"
    assert ranges(found["ranges"]) == changed.before
    (skipped,) = found["skipped"]
    assert changed.in_image == amount(found["ranges"]) - amount(skipped["ranges"])


def test_memory_that_is_plugged_in_meanwhile_is_told(changed: Changed) -> None:
    assert [one for one in changed.after if one not in changed.before] == [changed.plugged_in]
    assert ranges(changed.found["added"]) == [changed.plugged_in]
    assert changed.status == 1
    start, size = changed.plugged_in
    told = (
        f"{size:,} bytes of memory were added to the machine meanwhile and are not in the image: {start:#x}-"
    )
    assert told in changed.said


def test_memory_that_is_taken_meanwhile_is_told(changed: Changed) -> None:
    assert [one for one in changed.before if one not in changed.after] == [changed.unplugged]
    assert ranges(changed.found["removed"]) == sorted([changed.offline, changed.unplugged])
    size = changed.offline[1] + changed.unplugged[1]
    assert f"{size:,} bytes of memory were taken from the machine meanwhile" in changed.said


def test_a_disk_that_fills_up_leaves_a_valid_image_marked_partial(live: Live) -> None:
    done = live.run(
        f"{MEMDUMP} acquire --priority normal {OUT}/m.lime & taking=$!; "
        f"until [ -s {OUT}/m.lime.part ]; do sleep 0.2; done; "
        f"free=$(df --output=avail -B1 /lab | tail -1); fallocate -l $((free - 100000000)) {OUT}/filler; "
        "wait $taking",
        check=False,
    )
    live.run(f"rm {OUT}/filler")
    assert done.returncode == 1
    assert b"no room left on the disk" in done.stderr
    assert live.run(f"ls {OUT}").stdout.split() == [b"m.lime.custody.jsonl", b"m.lime.json", b"m.lime.part"]
    found = manifest(live, "m.lime")
    assert found["complete"] is False
    assert 0 < memory_in(live, "m.lime.part") == amount(found["ranges"]) - amount(found["not_taken"])


@pytest.mark.parametrize(
    ("place", "why"), [("/small/m.lime", "has room for"), ("/dev/shm/m.lime", "in memory")]
)
def test_a_bad_place_is_refused_beforehand(live: Live, place: str, why: str) -> None:
    for option in ("", "--dry-run"):
        done = live.run(f"{MEMDUMP} acquire {option} {place}", check=False)
        assert done.returncode == 2
        assert why in done.stderr.decode()
    assert live.run(f"ls {place}*", check=False).returncode


def test_it_stays_out_of_the_way(live: Live) -> None:
    done = live.run(
        f"{MEMDUMP} acquire - > {OUT}/m.lime & taking=$!;"
        f" until test -s {OUT}/m.lime || ! kill -0 $taking; do sleep 1; done;"
        " for task in /proc/$taking/task/*; do ionice -p ${task##*/}; cut -d' ' -f19 $task/stat; done;"
        " cat /proc/$taking/oom_score_adj; grep VmHWM /proc/$taking/status; kill $taking; wait $taking",
        check=False,
    )
    *tasks, score, memory = done.stdout.decode().splitlines()
    assert set(tasks) == {"idle", "10"}
    assert score == "1000"
    assert int(memory.split()[1]) < 100_000


def test_a_dry_run_writes_nothing_and_tells_what_is_true(live: Live) -> None:
    done = live.run(f"{MEMDUMP} acquire --dry-run {OUT}")
    told = dict(line.split(None, 1) for line in done.stdout.decode().splitlines() if not line.startswith(" "))
    assert told["source"] == "kcore"
    iomem = live.run("grep -c 'System RAM' /proc/iomem").stdout.decode().strip()
    assert f" in {iomem} ranges" in told["memory"]
    assert told["pause"].startswith("none")
    assert live.run(f"ls {OUT}").stdout == b""


def test_the_host_reads_the_same_as_qemu_dumps(live: Live, tmp_path: Path) -> None:
    source = QemuSource(str(live.qmp_path))
    source.begin()
    try:
        live.dump(tmp_path / "core")
        with open_image(tmp_path / "core") as core:
            assert {at.start: at.size for at in core.ranges} == dict(source.ranges())
            for start, size in source.ranges():
                for address in range(start, start + size, 1 << 20):
                    buffer = bytearray(min(1 << 20, start + size - address))
                    source.read_into(address, memoryview(buffer))
                    assert core.read(address, len(buffer)) == buffer
    finally:
        source.end()
        source.close()
    live.run("true")
