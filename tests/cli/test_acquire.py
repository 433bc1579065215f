"""``memdump acquire`` as a process of its own, on a machine made of files."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.machine.fake_kcore import Machine, make
from tests.machine.test_acquire import joined

WHOLE = ["web1.lime", "web1.lime.custody.jsonl", "web1.lime.json"]
PARTIAL = ["web1.lime.custody.jsonl", "web1.lime.json", "web1.lime.part"]

DRIVER = """
import sys, time
import memdump.cli.acquire as command
from memdump.cli import main
from memdump.machine import destination, pieces
from memdump.machine.kcore import KcoreSource
from memdump.machine.sources import Chosen

class Slow(KcoreSource):
    def __init__(self):
        super().__init__(sys.argv[1], sys.argv[2])
    def read_into(self, address, buffer):
        time.sleep(float(sys.argv[3]))
        super().read_into(address, buffer)
    def page_flags(self, address, size):
        raise OSError("this machine is made of files")

command.sources.open_source = lambda name, options: Chosen(Slow(), [("other", "is not here")])
destination._IN_RAM = ()
pieces.BLOCK, pieces._SMALLEST_PIECE = 16 * 4096, 32 * 4096
sys.exit(main(["acquire", *sys.argv[4:]]))
"""
# 55 blocks of 64 KiB make up the memory of the machine.
SLOW = 0.1


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    folder = tmp_path / "machine"
    folder.mkdir()
    return make(folder)


def command(machine: Machine, pause: str, *arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-c", DRIVER, machine.kcore, machine.iomem, pause, *arguments]


def start(
    machine: Machine, *arguments: str | Path, pause: float = 0, **options: Any
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(machine, str(pause), *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def run(machine: Machine, *arguments: str | Path, **options: Any) -> tuple[int, bytes, str]:
    process = start(machine, *arguments, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err.decode()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_an_image_and_its_manifest_are_written_for_the_owner_alone(machine: Machine, tmp_path: Path) -> None:
    image = tmp_path / "web1.lime"
    status, out, err = run(machine, image)
    assert (status, out.decode()) == (0, f"{image}\n")
    data = image.read_bytes()
    assert joined(data) == machine.memory
    digest = hashlib.sha256(data).hexdigest()
    other, source, warning, amount, written = err.splitlines()
    assert (other, source) == ("memdump: not through other: is not here", "memdump: reading through kcore")
    assert "web1.lime is not encrypted" in warning
    assert amount.startswith("memdump: 3 MiB in 0:0")
    assert written.endswith(f"SHA-256 {digest}")
    assert names(tmp_path) == WHOLE
    for name in WHOLE:
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    manifest = json.loads((tmp_path / "web1.lime.json").read_text())
    assert manifest["stream"] == {"format": "lime", "size": len(data), "sha256": digest}
    assert (manifest["written"]["name"], manifest["written"]["sha256"]) == ("web1.lime", digest)
    assert manifest["refused"] == [{"source": "other", "reason": "is not here"}]
    assert manifest["complete"] is True


def test_a_folder_gets_a_name_of_host_and_time(machine: Machine, tmp_path: Path) -> None:
    status, out, _ = run(machine, tmp_path)
    (image,) = (path for path in tmp_path.iterdir() if path.suffix == ".lime")
    assert (status, Path(out.decode().rstrip())) == (0, image)
    assert image.name.startswith(os.uname().nodename)


def test_without_a_name_it_goes_to_the_current_folder(machine: Machine, tmp_path: Path) -> None:
    status, out, _ = run(machine, cwd=tmp_path)
    assert status == 0
    assert (tmp_path / out.decode().rstrip()).is_file()


def test_standard_output_gets_the_same_bytes(machine: Machine, tmp_path: Path) -> None:
    status, out, err = run(machine, "-", "--manifest", tmp_path / "m.json", cwd=tmp_path)
    assert status == 0
    assert joined(out) == machine.memory
    assert hashlib.sha256(out).hexdigest() in err
    assert json.loads((tmp_path / "m.json").read_text())["written"]["name"] is None
    assert names(tmp_path) == ["m.json"]


def test_a_terminal_gets_no_image(machine: Machine) -> None:
    master, slave = os.openpty()
    done = subprocess.run(command(machine, "0", "-"), stdout=slave, stderr=subprocess.PIPE, timeout=60)
    os.close(slave)
    os.close(master)
    assert done.returncode == 2
    assert b"terminal" in done.stderr


def test_a_closed_standard_output_is_wrong_usage(machine: Machine) -> None:
    status, _, err = run(machine, "-", "--no-encrypt", preexec_fn=lambda: os.close(1))
    assert (status, err.splitlines()[-1]) == (
        2,
        "memdump: standard output is closed: name a file, or send standard output on",
    )


def test_a_pipe_that_does_not_wait_gets_the_whole_image(machine: Machine) -> None:
    """As a shell leaves it whose other programs use the pipe without waiting."""
    inside, outside = os.pipe()
    os.set_blocking(outside, False)
    process = subprocess.Popen(
        command(machine, "0", "-", "--no-encrypt"), stdout=outside, stderr=subprocess.PIPE
    )
    os.close(outside)
    with os.fdopen(inside, "rb") as file:
        time.sleep(1)  # until it is full
        data = file.read()
    assert process.stderr
    err = process.stderr.read()
    assert process.wait(60) == 0, err
    assert joined(data) == machine.memory


@pytest.mark.parametrize("name", [*WHOLE, "web1.lime.part"])
def test_nothing_that_exists_is_written_over(machine: Machine, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    status, _, err = run(machine, tmp_path / "web1.lime")
    assert status == 2
    assert "exists already" in err
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("name", [*WHOLE, "web1.lime.part"])
def test_no_symbolic_link_is_followed(machine: Machine, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    status, _, _ = run(machine, tmp_path / "web1.lime")
    assert status == 2
    assert not (tmp_path / "elsewhere").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name != "machine"] == [name]


def wait_for(path: Path, size: int) -> None:
    end = time.monotonic() + 30
    while not path.exists() or path.stat().st_size < size:
        assert time.monotonic() < end, f"{path} did not grow"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_a_part_that_says_it_is_one(
    machine: Machine, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(machine, tmp_path / "web1.lime", pause=SLOW)
    part = tmp_path / "web1.lime.part"
    wait_for(part, 200_000)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"stopped by {number.name}; what was written stands in {part}" in err.decode().splitlines()[-1]
    assert names(tmp_path) == PARTIAL
    manifest = json.loads((tmp_path / "web1.lime.json").read_text())
    assert manifest["complete"] is False
    assert number.name in manifest["stopped_by"]
    assert manifest["written"]["size"] == part.stat().st_size
    assert manifest["written"]["sha256"] == hashlib.sha256(part.read_bytes()).hexdigest()
    taken = joined(part.read_bytes())  # a valid image, of whole pieces
    assert all(machine.memory[start].startswith(data) for start, data in taken.items())
    missing = sum(size for _, size in manifest["not_taken"])
    assert sum(map(len, taken.values())) + missing == sum(map(len, machine.memory.values()))


def test_a_manifest_that_finds_no_place_any_more_is_printed(machine: Machine, tmp_path: Path) -> None:
    process = start(machine, tmp_path / "web1.lime", pause=SLOW)
    wait_for(tmp_path / "web1.lime.part", 100_000)
    (tmp_path / "web1.lime.json.part").write_text("precious")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert names(tmp_path) == ["web1.lime", "web1.lime.custody.jsonl", "web1.lime.json.part"]
    said, _, text = err.decode().partition("nowhere else:\n")
    assert "web1.lime.json.part: exists already" in said.splitlines()[-1]
    sha256 = hashlib.sha256((tmp_path / "web1.lime").read_bytes()).hexdigest()
    assert json.loads(text)["written"]["sha256"] == sha256


def test_a_kill_half_way_leaves_nothing_that_looks_whole(machine: Machine, tmp_path: Path) -> None:
    process = start(machine, tmp_path / "web1.lime", pause=SLOW)
    wait_for(tmp_path / "web1.lime.part", 200_000)
    process.kill()
    process.communicate(timeout=60)
    assert names(tmp_path) == ["web1.lime.part"]


def test_an_ignored_hangup_stays_ignored(machine: Machine, tmp_path: Path) -> None:
    process = start(
        machine,
        tmp_path / "web1.lime",
        pause=0.02,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    wait_for(tmp_path / "web1.lime.part", 200_000)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert names(tmp_path) == WHOLE


def test_a_file_that_may_not_grow_further_is_told(machine: Machine, tmp_path: Path) -> None:
    status, _, err = run(
        machine,
        tmp_path / "web1.lime",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert status == 1
    assert "web1.lime.part" in err
    assert names(tmp_path) == PARTIAL
    manifest = json.loads((tmp_path / "web1.lime.json").read_text())
    assert manifest["complete"] is False
    data = (tmp_path / "web1.lime.part").read_bytes()
    assert 900_000 < len(data) <= 1_000_000
    assert manifest["written"]["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_full_disk_is_told(machine: Machine) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command(machine, "0", "-"), stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1
    assert b"standard output: No space left on device; the image there is not whole" in done.stderr


def test_a_reader_that_goes_away_is_told(machine: Machine) -> None:
    process = start(machine, "-")
    assert process.stdout and process.stderr
    process.stdout.read(1000)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) == 1
    assert b"Broken pipe; the image there is not whole" in err


def test_memory_that_is_missing_is_told_with_status_1(machine: Machine, tmp_path: Path) -> None:
    os.truncate(machine.kcore, 0x10000 + 0x3FE000)
    status, out, err = run(machine, tmp_path / "web1.lime")
    assert (status, out.decode()) == (1, f"{tmp_path}/web1.lime\n")
    assert "8,192 bytes could not be read and stand as zeros in the image: 0x3fe000-0x3fffff\n" in err
    manifest = json.loads((tmp_path / "web1.lime.json").read_text())
    assert manifest["unreadable"] == [["0x3fe000", 8192]]
    assert manifest["complete"] is True
    whole = machine.memory[0x100000]
    assert joined((tmp_path / "web1.lime").read_bytes())[0x100000] == whole[:-8192] + bytes(8192)


@pytest.mark.parametrize("option", ["--skip=free", "--order=kernel-first"])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_what_takes_knowing_the_pages_is_refused_where_they_are_not_known(
    machine: Machine, tmp_path: Path, option: str, more: list[str]
) -> None:
    status, _, err = run(machine, tmp_path / "web1.lime", option, *more)
    assert status == 2
    assert f"{option[2:].replace('=', ' ')}: the source kcore does not tell what its pages are" in err
    assert names(tmp_path) == []


def test_the_default_order_gives_way_where_the_pages_are_not_known(machine: Machine, tmp_path: Path) -> None:
    status, _, _ = run(machine, tmp_path / "web1.lime")
    assert status == 0
    assert json.loads((tmp_path / "web1.lime.json").read_text())["order"] == "ascending"


def test_memory_that_is_added_meanwhile_is_told_with_status_1(machine: Machine, tmp_path: Path) -> None:
    process = start(machine, tmp_path / "web1.lime", pause=0.02)
    wait_for(tmp_path / "web1.lime.part", 100_000)
    added = "100000000-107ffffff : System RAM\n  100000000-107ffffff : System RAM (virtio_mem)\n"
    machine.iomem.write_text(machine.iomem.read_text() + added)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    told = err.decode().splitlines()[-1]
    assert told == (
        "memdump: 134,217,728 bytes of memory were added to the machine meanwhile and are not in the image:"
        " 0x100000000-0x107ffffff"
    )
    manifest = json.loads((tmp_path / "web1.lime.json").read_text())
    assert manifest["added"] == [["0x100000000", 0x8000000]]
    assert manifest["complete"] is True
    assert joined((tmp_path / "web1.lime").read_bytes()) == machine.memory


def test_without_permission_nothing_is_written(machine: Machine, tmp_path: Path) -> None:
    machine.iomem.write_text("00000000-00000000 : System RAM\n")
    status, _, err = run(machine, tmp_path / "web1.lime")
    assert status == 4
    assert "CAP_SYS_ADMIN" in err
    assert names(tmp_path) == []


def test_only_the_standard_library_is_needed() -> None:
    code = (
        "import sys; before = set(sys.modules); import memdump.cli.acquire; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["memdump"]
