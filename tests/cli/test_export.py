"""``memdump export isf``: Volatility 3 itself reads the file, and tells what the guest told of itself."""

from __future__ import annotations

import base64
import json
import lzma
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memdump.cli import main
from tests.tables import proc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.dump import Dump
    from tests.lab.guests import Made

PATIENCE = 900
"""Seconds that a plugin may take on a machine with much else to do."""


class Volatility:
    """Volatility 3, with a symbol file that memdump made of the image."""

    def __init__(self, guest: Made, folder: Path) -> None:
        self._image, self._folder = guest.qmp_image, folder
        (folder / "symbols").mkdir()
        (folder / "cache").mkdir()
        # Where jsonschema is installed, Volatility spends minutes on comparing the file with its schema.
        (folder / "jsonschema.py").write_text("raise ImportError('left out')")
        assert main(["export", "isf", str(self._image), str(folder / "symbols" / "kernel.json.xz")]) == 0

    def run(self, plugin: str) -> list[dict[str, Any]]:
        """The rows of a plugin."""
        script = Path(sysconfig.get_path("scripts")) / "vol"
        done = subprocess.run(
            [script, "-q", "-r", "json", "-f", self._image, "-s", self._folder / "symbols", plugin],
            env={
                **os.environ,
                "XDG_CACHE_HOME": str(self._folder / "cache"),
                "PYTHONPATH": str(self._folder),
            },
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows


@pytest.fixture(scope="session")
def volatility(guest: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Volatility]:
    pytest.importorskip("volatility3", reason="Volatility 3 is not installed: pip install 'memdump[peers]'")
    if guest.truth["machine"]["paging_levels"] != 4:
        pytest.skip("Volatility 3 does not read 5-level page tables")
    yield Volatility(guest, tmp_path_factory.mktemp("volatility"))


def plain(text: str) -> bool:
    """Whether Volatility shows a text as it is."""
    return text.isascii() and text.isprintable()


def test_pslist_tells_the_processes_of_the_guest(guest: Made, volatility: Volatility) -> None:
    told = {row["PID"]: row for row in volatility.run("linux.pslist.PsList")}
    # Volatility leaves out a process that has ended and was not waited for.
    recorded = {
        pid: found for pid, found in proc.processes(guest).items() if proc.stat(found["stat"])[3] != "Z"
    }
    assert set(recorded) <= set(told)
    assert all(told[pid]["PPID"] == 2 for pid in set(told) - set(recorded))  # workers of the kernel
    for pid, found in recorded.items():
        stat, status = proc.stat(found["stat"]), proc.status(found["status"])
        name = found["threads"][0]["comm"]
        assert told[pid]["PPID"] == int(stat[4])
        assert told[pid]["UID"] == int(status["Uid"].split()[0])
        if plain(name):
            # /proc knows the whole name of a kernel thread, Volatility its first 15 bytes.
            assert told[pid]["COMM"] == (name[:15] if found["kernel_thread"] else name)


def test_psaux_tells_their_arguments(guest: Made, volatility: Volatility) -> None:
    told = {row["PID"]: row["ARGS"] for row in volatility.run("linux.psaux.PsAux")}
    # Volatility gives up on long ones, and does not look for the end of a title that outgrew them.
    left_out = {proc.role(guest, "title"), proc.role(guest, "long_line")}
    compared = 0
    for pid, found in proc.processes(guest).items():
        arguments = (found["cmdline"] or "").removesuffix("\0").replace("\0", " ")
        if arguments and plain(arguments) and pid not in left_out:
            assert told[pid].strip() == arguments.strip()
            compared += 1
    assert compared > 10


def test_lsmod_tells_the_modules(guest: Made, volatility: Volatility) -> None:
    told = [row["Module Name"] for row in volatility.run("linux.lsmod.Lsmod")]
    assert told == [module["name"] for module in guest.truth["modules"]]


def test_mountinfo_tells_the_mounts(guest: Made, volatility: Volatility) -> None:
    told = {(row["MNT_NS_ID"], row["MOUNT ID"]): row for row in volatility.run("linux.mountinfo.MountInfo")}
    processes = {found["pid"]: found for found in guest.truth["processes"]}
    own = str(processes[proc.recorder(guest)]["namespaces"]["mnt"])
    compared = 0
    for namespace, text in guest.truth["mounts"].items():
        for line in (text or "").splitlines():
            number, parent, device, _, point = line.split()[:5]
            found = told[int(namespace), int(number)]
            assert (found["PARENT_ID"], found["MAJOR:MINOR"]) == (int(parent), device)
            if plain(point) and "\\" not in point and namespace == own:
                assert found["MOUNT_POINT"] == point
                compared += 1
    assert compared > 10


def test_lsof_tells_the_open_files(guest: Made, volatility: Volatility) -> None:
    told: dict[int, set[tuple[int, int]]] = {}
    for row in volatility.run("linux.lsof.Lsof"):
        if row["PID"] == row["TID"]:
            told.setdefault(row["PID"], set()).add((row["FD"], row["Inode"]))
    for pid, found in proc.processes(guest).items():
        if pid != proc.recorder(guest):
            assert told.get(pid, set()) == {(entry["fd"], entry["inode"]) for entry in found.get("fds", [])}


def test_the_addresses_are_those_that_the_kernel_was_linked_to(
    guest: Made, dump: Dump, tmp_path: Path
) -> None:
    out = tmp_path / "kernel.json.xz"
    main(["export", "isf", str(guest.qmp_image), str(out)])
    symbols = json.loads(lzma.decompress(out.read_bytes()))["symbols"]
    moved = dump.kernel.kaslr_offset
    assert symbols["_text"]["address"] == 0xFFFFFFFF81000000
    seen: dict[str, set[tuple[int, str]]] = {}
    for line in (guest.folder / "kallsyms").read_text().splitlines():
        if "[" not in line:  # of a module
            address, letter, name = line.split()
            seen.setdefault(name, set()).add((int(address, 16), letter))
    # What became of it in 6.17 stands in its place too: Volatility looks for the old name.
    seen.setdefault("tk_core", seen.get("timekeeper_data", set()))
    assert set(symbols) == set(seen)
    for name, found in symbols.items():
        assert found["address"] in {
            address if letter == "A" or address < 1 << 32 else address - moved
            for address, letter in seen[name]
        }


def test_the_banner_is_the_kernels_own_byte_for_byte(guest: Made, tmp_path: Path) -> None:
    out = tmp_path / "kernel.json"
    main(["export", "isf", str(guest.qmp_image), str(out)])
    banner = base64.b64decode(json.loads(out.read_text())["symbols"]["linux_banner"]["constant_data"])
    release, version = guest.truth["machine"]["uname"][2:4]
    assert banner.startswith(f"Linux version {release} ".encode())
    assert banner.endswith(f"{version}\n\0".encode())
    assert banner in guest.qmp_image.read_bytes()


def test_without_a_name_the_file_is_called_as_the_release(
    guest: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "isf", str(guest.qmp_image)]) == 0
    name = guest.truth["machine"]["uname"][2] + ".json.xz"
    assert capsys.readouterr().out == name + "\n"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_name_that_volatility_does_not_find_is_refused(guest: Made, tmp_path: Path) -> None:
    assert main(["export", "isf", str(guest.qmp_image), str(tmp_path / "kernel.isf")]) == 2
    assert not list(tmp_path.iterdir())


def test_an_image_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "zeros.raw"
    image.write_bytes(bytes(1 << 20))
    assert main(["export", "isf", str(image), str(tmp_path / "kernel.json")]) == 3
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["zeros.raw"]
