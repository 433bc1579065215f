"""What becomes of a guest, and of its image, when memdump is ended in the middle of taking it from the host.

QEMU itself says whether the guest runs, which memory it was given, and what its addresses are.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from memdump.machine.acquire import Plan, acquire
from memdump.machine.qemu import QemuSource
from memdump.machine.source import Range
from tests.image.qemu import Monitor
from tests.machine.test_qemu import QEMU, until
from tests.machine.walk import walk

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not QEMU, reason="qemu-system-x86_64 is not installed")

MEMDUMP = "import sys; from memdump.cli import main; from memdump.machine import destination;"
MEMDUMP += "destination._IN_RAM = (); sys.exit(main())"
"""The command, which takes images into a folder of tests wherever that lies."""


IMAGE = re.compile(r"vm\.lime(\.\d{3})?(\.part)?")


class Victim(NamedTuple):
    """A guest with nothing but a firmware."""

    path: str
    """The monitor that memdump gets; it serves one at a time."""
    monitor: Monitor
    """Another one, which is the tests'."""

    def status(self) -> str:
        return str(self.monitor.ask("query-status")["status"])


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with tempfile.TemporaryDirectory() as folder:
        command = [str(QEMU), "-accel", "tcg", "-m", "256M,slots=2,maxmem=1G", "-display", "none"]
        for name in ("ours", "memdump's"):
            command += ["-qmp", f"unix:{folder}/{name},server=on,wait=off"]
        command += ["-serial", "none", "-monitor", "none"]
        with subprocess.Popen(command) as process:
            try:
                monitor = Monitor(Path(folder, "ours"))
                until(lambda: "vga.vram" in monitor.monitor("info mtree -f"))
                yield Victim(f"{folder}/memdump's", monitor)
            finally:
                process.kill()


def start(victim: Victim, *arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", MEMDUMP, "acquire", "--source", f"qemu:{victim.path}", "--no-encrypt"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # which is what it is killed with
    )


def started_by(process: int) -> list[int]:
    """The processes that another one has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == process:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda it: it.name)
def test_whenever_it_is_ended_the_guest_runs_on_and_nothing_looks_whole_that_is_not(
    victim: Victim, tmp_path: Path, number: signal.Signals
) -> None:
    chance = random.Random(number)
    with start(victim, tmp_path / "vm.lime") as process:  # the first is left alone, to see how long it takes
        until(lambda: victim.status() == "paused")
        begin = time.monotonic()
        process.communicate(timeout=60)
    pause = time.monotonic() - begin
    amount = len(image_in(tmp_path))
    ends = []
    for attempt in range(6):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        with start(victim, folder / "vm.lime", *(["--split", "20M"] if attempt % 2 else [])) as process:
            until(lambda: victim.status() == "paused")
            time.sleep(chance.uniform(0, pause) if attempt > 1 else 0)
            os.killpg(process.pid, number)
            _, said = process.communicate(timeout=60)
        until(lambda: victim.status() == "running")
        image = image_in(folder)
        whole = len(image) == amount
        if not whole:
            ends.append(len(image) >> 20)
            assert all(path.name.endswith(".part") for path in images_in(folder))
        if number != signal.SIGKILL:
            check_record(folder, image, whole=whole, number=number, said=said.decode())
        elif not whole:
            assert sorted(folder.iterdir()) == images_in(folder)  # nothing tells of them what they are not
    print(f"{number.name} within {pause:.2f} s, with so many of {amount >> 20} MiB: {ends}")
    assert ends


def images_in(folder: Path) -> list[Path]:
    """The image in a folder, or its pieces."""
    found = [path for path in sorted(folder.iterdir()) if IMAGE.fullmatch(path.name)]
    # One that has just got its name may have the other still.
    return [path for path in found if path.with_suffix("") not in found or path.suffix != ".part"]


def image_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in images_in(folder))


def check_record(folder: Path, image: bytes, *, whole: bool, number: signal.Signals, said: str) -> None:
    """See that the manifest tells what there is, and that memdump finds it so."""
    record = json.loads((folder / "vm.lime.json").read_text())
    assert record["written"]["sha256"] == hashlib.sha256(image).hexdigest()
    ranges, missing = (sum(size for _, size in record[key]) for key in ("ranges", "not_taken"))
    assert sum(size for _, size in walk(io.BytesIO(image))) == ranges - missing
    assert record["complete"] is whole
    assert bool(missing) is not whole
    if not whole:
        assert f"stopped by {number.name}; what was written stands in {folder}/vm.lime" in said
    command = [sys.executable, "-m", "memdump", "verify", str(images_in(folder)[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_guest_runs_on_when_all_were_asked_to_end_and_memdump_is_killed(
    victim: Victim, tmp_path: Path
) -> None:
    """As where a service is stopped: each process of it is asked, and what takes too long is killed."""
    with start(victim, tmp_path / "vm.lime") as process:
        until(lambda: victim.status() == "paused")
        os.kill(process.pid, signal.SIGSTOP)  # it takes too long
        (guard,) = started_by(process.pid)
        # memdump lets itself be killed first where memory is short; that frees enough.
        until(lambda: Path(f"/proc/{guard}/oom_score_adj").read_text() == "0\n")
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            for pid in (guard, process.pid):
                os.kill(pid, number)
        assert victim.status() == "paused"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    until(lambda: victim.status() == "running")
    until(lambda: not Path(f"/proc/{guard}").exists())


def memory_devices(monitor: Monitor) -> list[Range]:
    """The memory that QEMU was told to plug in, by its own words."""
    found: list[Any] = monitor.ask("query-memory-devices")
    return sorted(Range(one["data"]["addr"], one["data"]["size"]) for one in found)


def test_memory_that_qemu_gives_a_guest_that_runs_on_is_told(victim: Victim) -> None:
    def plug(_: int) -> None:
        if not memory_devices(victim.monitor):
            victim.monitor.ask(
                "object-add", **{"qom-type": "memory-backend-ram", "id": "m0", "size": 128 << 20}
            )
            victim.monitor.ask("device_add", driver="pc-dimm", id="d0", memdev="m0")

    source = QemuSource(victim.path, live=True)
    try:
        before = list(source.ranges())
        image = io.BytesIO()
        taken = acquire(source, image, Plan(), plug, lambda: None)
    finally:
        source.close()
    assert taken.complete
    assert list(taken.ranges) == before
    assert list(taken.added) == memory_devices(victim.monitor) != []
    image.seek(0)
    assert sum(size for _, size in walk(image)) == sum(found.size for found in before)
