"""Guests with nothing but a firmware: QEMU itself tells what is in their memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from memdump.errors import NotPermitted, UsageError
from memdump.image import open_image
from memdump.machine.qemu import QemuSource, flat_view
from memdump.machine.qmp import Monitor
from memdump.machine.source import Range

if TYPE_CHECKING:
    from collections.abc import Iterator

QEMU = shutil.which("qemu-system-x86_64")
needs_qemu = pytest.mark.skipif(not QEMU, reason="qemu-system-x86_64 is not installed")


@pytest.fixture
def guest() -> Iterator[str]:
    """The QMP socket of a running guest."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/qmp"
        command = [str(QEMU), "-accel", "tcg", "-m", "64M", "-display", "none", "-name", "victim"]
        command += ["-qmp", f"unix:{path},server=on,wait=off", "-serial", "none", "-monitor", "none"]
        with subprocess.Popen(command) as process:
            try:
                until(lambda: Path(path).exists())
                yield path
            finally:
                process.kill()


def until(done: object) -> None:
    assert callable(done)
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def status(path: str) -> str:
    monitor = Monitor(path)
    try:
        return str(monitor.ask("query-status")["status"])
    finally:
        monitor.close()


def contents(source: QemuSource) -> dict[int, bytes]:
    found = {}
    for start, size in source.ranges():
        buffer = bytearray(size)
        source.read_into(start, memoryview(buffer))
        found[start] = bytes(buffer)
    return found


def settled(path: str) -> bool:
    """Whether the firmware has found the screen, and moves no memory about any more."""
    views = []
    for _ in range(2):
        monitor = Monitor(path)
        views.append(monitor.ask_human("info mtree -f"))
        monitor.close()
        time.sleep(0.3)
    return "vga.vram" in views[0] and views[0] == views[1]


@needs_qemu
def test_the_bytes_are_those_that_qemu_dumps_and_the_guest_runs_on(guest: str, tmp_path: Path) -> None:
    until(lambda: settled(guest))
    source = QemuSource(guest)
    source.begin()
    found = contents(source)
    source._monitor.ask("dump-guest-memory", paging=False, protocol=f"file:{tmp_path}/core")
    (pause,) = source.end()
    assert pause > 0
    assert source.host().hostname == "victim"
    source.close()
    assert status(guest) == "running"
    with open_image(tmp_path / "core") as core:
        assert {found.start: found.size for found in core.ranges} == {
            at: len(data) for at, data in found.items()
        }
        for start, data in found.items():
            assert core.read(start, len(data)) == data
    assert any(any(data) for data in found.values())


@needs_qemu
def test_a_guest_that_stood_still_before_is_left_standing(guest: str) -> None:
    monitor = Monitor(guest)
    monitor.ask("stop")
    monitor.close()
    source = QemuSource(guest)
    assert not source.pauses_machine
    source.begin()
    assert source.end() == []
    source.close()
    assert status(guest) == "paused"


@needs_qemu
def test_live_never_stops_it(guest: str) -> None:
    source = QemuSource(guest, live=True)
    source.begin()
    assert source._monitor.ask("query-status")["running"]
    assert source.end() == []
    source.close()


@needs_qemu
def test_a_guest_runs_on_when_memdump_is_killed(guest: str) -> None:
    code = (
        "import sys, time; from memdump.machine.qemu import QemuSource; source = QemuSource(sys.argv[1]);"
        "source.begin(); print(source._monitor.ask('query-status')['status'], flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, guest], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"paused\n"
        process.send_signal(signal.SIGKILL)
    until(lambda: status(guest) == "running")


DYING = """
import os, signal, sys, time
from memdump.cli import main
from memdump.machine import destination, pieces, qemu

class Dying(qemu.QemuSource):
    reads = 0

    def read_into(self, address, buffer):
        self.reads += 1
        if self.reads == 40:
            os.kill(self._process, signal.SIGKILL)
            time.sleep(0.5)
        super().read_into(address, buffer)

qemu.QemuSource = Dying
destination._IN_RAM = ()
pieces.BLOCK, pieces._SMALLEST_PIECE = 1 << 18, 1 << 20
sys.exit(main(["acquire", sys.argv[1], "--source", "qemu:" + sys.argv[2], "--no-encrypt"]))
"""


@needs_qemu
def test_a_guest_that_dies_while_it_is_read_leaves_a_partial_image_and_says_so(
    guest: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DYING, tmp_path / "vm.lime.zst", guest],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "QEMU ended while its guest's memory was read" in done.stderr.splitlines()[-1]
    manifest = json.loads((tmp_path / "vm.lime.zst.json").read_text())
    assert manifest["complete"] is False
    assert len(manifest["pauses"]) == 1
    assert sum(size for _, size in manifest["not_taken"])
    packed = (tmp_path / "vm.lime.zst.part").read_bytes()
    lime = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).read()
    assert hashlib.sha256(lime).hexdigest() == manifest["stream"]["sha256"]


@needs_qemu
def test_a_monitor_without_qemu_is_closed_in_silence(guest: str) -> None:
    source = QemuSource(guest)
    source.begin()
    os.kill(source._process, signal.SIGKILL)
    time.sleep(0.2)
    assert len(source.end()) == 1
    assert source.end() == []
    source.close()


def acquired(guest: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from memdump.cli import main; from memdump.machine import destination;"
    code += "destination._IN_RAM = (); sys.exit(main())"
    command = [sys.executable, "-c", code, "acquire", "--source", f"qemu:{guest}", "--no-encrypt"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


@needs_qemu
def test_a_rate_is_refused_for_a_guest_that_would_stand_still_for_it(guest: str, tmp_path: Path) -> None:
    done = acquired(guest, tmp_path / "vm.lime", "--max-rate", "1G")
    assert done.returncode == 2
    assert "add --live" in done.stderr
    assert list(tmp_path.iterdir()) == []
    done = acquired(guest, tmp_path / "vm.lime", "--max-rate", "1G", "--live")
    assert done.returncode in (0, 1), done.stderr
    assert "stands still" not in done.stderr


@needs_qemu
def test_a_pause_is_told_beforehand(guest: str, tmp_path: Path) -> None:
    done = acquired(guest, tmp_path / "vm.lime", "--dry-run")
    assert "\npause         the guest stands still for about 0:0" in done.stdout
    done = acquired(guest, tmp_path / "vm.lime")
    assert done.returncode in (0, 1), done.stderr
    assert "memdump: the guest stands still until its memory is written or sent" in done.stderr


def test_no_socket_and_another_kind_of_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="name the UNIX socket of a QMP monitor"):
            QemuSource(str(path))


def test_a_monitor_that_another_process_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "libvirt"
    answers = {
        "query-status": {"running": True, "status": "running"},
        "info mtree -f": MTREE,
        "gpa2hva 0x0": "Host virtual address for 0x0 (pc.ram) is 0x10",
        "gpa2hva 0x100000": "Host virtual address for 0x100000 (pc.ram) is 0x100010",
    }

    def serve() -> None:
        link, _ = server.accept()
        with link.makefile("rwb") as stream:
            stream.write(b'{"QMP": {}}\n')
            stream.flush()
            for line in stream:
                asked = json.loads(line)
                what = asked["arguments"].get("command-line", asked["execute"])
                stream.write(json.dumps({"return": answers.get(what, {})}).encode() + b"\n")
                stream.flush()
        link.close()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(NotPermitted, match="not QEMU itself"):
            QemuSource(str(path))
        thread.join()


MTREE = """\
FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan

FlatView #1
 AS "cpu-memory-0", root: system
 AS "memory", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram KVM
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  0000000000100000-000000003fffffff (prio 0, ram): pc.ram @0000000000100000 KVM
  00000000fe000000-00000000fe000fff (prio 0, ramd): 0000:01:00.0 BAR 0 mmaps[0]
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios KVM

FlatView #2
 AS "other", root: bus master container
 Root memory region: (none)
  No rendered FlatView
"""


def test_the_view_of_the_processors_is_read_and_no_device(tmp_path: Path) -> None:
    expected = [Range(0, 0xA0000), Range(0x100000, 0x3FF00000), Range(0xFFFC0000, 0x40000)]
    assert flat_view(MTREE) == flat_view(MTREE.replace("\n", "\r\n")) == expected
    assert flat_view("") == []
