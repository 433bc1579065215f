"""The memory of the live guest, taken over a real ssh, and by the program of one file inside it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from memdump.image import open_image
from memdump.machine import bundle, manifest
from memdump.machine.source import Range
from tests.lab.live import NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.machine.manifest import Manifest
    from tests.lab.live import Live

PAGE = 4096
UNCHANGED = 0.85
"""The least share of pages that are the same when QEMU looks right after."""

WRITTEN = (
    (
        "find / ( -path /proc -o -path /sys -o -path /dev ) -prune -o ( -newer {0} -o -cnewer {0} ) -print"
        " 2>/dev/null; true"
    )
    .replace("( ", r"\( ")
    .replace(" )", r" \)")
)


class Taken(NamedTuple):
    image: Path
    core: Path
    record: Manifest
    said: str
    written: list[str]
    """Files and folders of the guest that had changed afterwards."""


def over_ssh(live: Live, user: str, *options: str) -> list[str]:
    command = [sys.executable, "-m", "memdump", "acquire", "--source", f"ssh:{user}@{NAME}"]
    return [*command, f"--ssh-option=-F{live.config}", "--no-encrypt", "--priority", "normal", *options]


def system_ram(live: Live) -> list[Range]:
    """Whole pages of it, as the kernel uses them."""
    ram = re.findall(r"^(\w+)-(\w+) : System RAM", live.get("/proc/iomem").decode(), re.MULTILINE)
    pages = [(-(-int(first, 16) // PAGE), (int(last, 16) + 1) // PAGE) for first, last in ram]
    return [Range(first * PAGE, (end - first) * PAGE) for first, end in pages]


def newer(live: Live, stamp: str) -> list[str]:
    return live.run(WRITTEN.format(stamp)).stdout.decode().splitlines()


@pytest.fixture(scope="module")
def taken(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taken]:
    """Take the guest's memory as a user with sudo, and have QEMU write it right after."""
    folder = tmp_path_factory.mktemp("ssh")
    live.run("sudo -n true", user="analyst")  # what ssh and sudo themselves write is written by then
    live.run("touch /run/stamp && sleep 1")
    command = over_ssh(live, "analyst", str(folder / "live.lime"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    live.dump(folder / "live.elf")
    assert done.returncode == 0, done.stderr
    yield Taken(
        folder / "live.lime",
        folder / "live.elf",
        manifest.load(folder / "live.lime.json"),
        done.stderr,
        newer(live, "/run/stamp"),
    )
    shutil.rmtree(folder)


def share_unchanged(image: Path, core: Path) -> float:
    with open_image(image) as ours, open_image(core) as theirs:
        same = total = 0
        for found in ours.ranges:
            for start in range(found.start, found.start + found.size, 1 << 20):
                size = min(1 << 20, found.start + found.size - start)
                one, other = ours.read(start, size), theirs.read(start, size)
                total += size // PAGE
                same += sum(one[at : at + PAGE] == other[at : at + PAGE] for at in range(0, size, PAGE))
    return same / total


def test_most_pages_are_what_qemu_saw(taken: Taken) -> None:
    share = share_unchanged(taken.image, taken.core)
    print(f"over ssh: {share:.2%} of the pages are the same; {taken.said}")
    assert share >= UNCHANGED


def test_the_manifest_tells_of_the_other_machine(live: Live, taken: Taken) -> None:
    record = taken.record
    assert record.complete
    assert record.host.hostname == live.run("hostname").stdout.decode().strip()
    assert record.host.boot_id == live.get("/proc/sys/kernel/random/boot_id").decode().strip()
    assert record.source == "kcore over ssh"
    assert record.acquired_by
    assert record.acquired_by.hostname == socket.gethostname()
    assert list(record.ranges) == system_ram(live)


def test_nothing_is_written_to_the_other_machine(live: Live, taken: Taken) -> None:
    live.run("touch /small/control")
    assert "/small/control" in newer(live, "/run/stamp")
    live.run("rm /small/control")
    # sudo notes when it was used.
    assert [path for path in taken.written if not path.startswith("/run/sudo")] == []


def refused(live: Live, user: str, *options: str) -> str:
    command = over_ssh(live, user, "-", *options)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_user_who_may_not_is_told_so(live: Live) -> None:
    assert "visitor@live: sudo: a password is required; log in as root" in refused(live, "visitor")


def test_another_host_under_its_name_gets_nothing(live: Live, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{live.port} {(tmp_path / 'key.pub').read_text()}")
    said = refused(live, "root", f"--ssh-option=UserKnownHostsFile={known}")
    assert "root@live: Host key verification failed" in said
    known.write_text("")
    assert "Host key verification failed" in refused(live, "root", f"--ssh-option=UserKnownHostsFile={known}")


def test_a_lost_connection_leaves_a_partial_image_and_nothing_running(live: Live, tmp_path: Path) -> None:
    out = tmp_path / "lost.lime"
    process = subprocess.Popen(over_ssh(live, "analyst", str(out)), stderr=subprocess.PIPE, text=True)
    part = Path(f"{out}.part")
    while process.poll() is None and not (part.exists() and part.stat().st_size > 20 << 20):
        time.sleep(0.2)
    assert b"zlib" in pythons_of_root(live)
    live.run("pkill -f 'sshd: analyst@notty'")
    _, said = process.communicate()
    assert process.returncode == 1, said
    assert "analyst@live: the connection ended" in said.splitlines()[-1]
    record = manifest.load(f"{out}.json")
    assert not record.complete
    assert record.not_taken
    assert not out.exists()
    with open_image(part) as image:
        assert sum(found.size for found in image.ranges) > 10 << 20
    assert b"zlib" not in pythons_of_root(live)


def pythons_of_root(live: Live) -> bytes:
    """Their command lines; that of the far end unpacks the program that comes behind it."""
    return live.run("for p in $(pgrep -u root python3); do cat /proc/$p/cmdline; echo; done").stdout


def test_the_program_of_one_file_sends_the_memory_of_a_host_that_is_given_more(
    live: Live, tmp_path: Path
) -> None:
    live.put("/tmp/memdump-agent.pyz", bundle.program())
    there = live.run("find /tmp").stdout
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    receiver = subprocess.Popen(
        [sys.executable, "-m", "memdump", "receive", f"127.0.0.1:{port}", str(tmp_path)],
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert receiver.stderr
    assert receiver.stderr.readline()  # it listens
    command = live.command(f"cd /tmp && python3 memdump-agent.pyz acquire tcp:10.0.2.2:{port}")
    before = system_ram(live)
    try:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as agent:
            while agent.poll() is None and not any(path.stat().st_size for path in tmp_path.glob("*.part")):
                time.sleep(0.2)
            plugged = Range(*live.plug("more"))
            live.run("head -c 1 /proc/kcore > /dev/null")  # has the kernel lay it out anew
            assert any(tmp_path.glob("*.part"))
            _, said = agent.communicate()
        assert receiver.wait(60) == 0, receiver.stderr.read()
        assert system_ram(live) == [*before, plugged]
        live.dump(tmp_path / "live.elf")
    finally:
        receiver.kill()
        receiver.wait()
        receiver.stderr.close()
        if live.plugged():
            live.unplug("more")
    (image,) = tmp_path.glob("*.lime")
    assert agent.returncode == 1, said
    record = manifest.load(f"{image}.json")
    assert (record.complete, list(record.ranges), list(record.added)) == (True, before, [plugged])
    share = share_unchanged(image, tmp_path / "live.elf")
    print(f"by the program: {share:.2%} of the pages are the same; {said}")
    assert share >= UNCHANGED
    assert live.run("find /tmp").stdout == there


def test_a_host_without_python_is_told_apart(live: Live) -> None:
    live.run("mkdir /run/hidden && for p in /usr/bin/python3*; do mv $p /run/hidden/; done")
    try:
        command = over_ssh(live, "root", "-")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        live.run("mv /run/hidden/* /usr/bin/ && rmdir /run/hidden")
    assert done.returncode == 1
    assert "root@live has no Python 3.8 or newer" in done.stderr
    assert done.stderr.count("\n") == 1
