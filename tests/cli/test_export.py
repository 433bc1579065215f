"""``memdump export isf``: Volatility 3 itself reads the file, and tells what the guest told of itself."""

from __future__ import annotations

import base64
import json
import lzma
from typing import TYPE_CHECKING

import pytest

from memdump.cli import main
from tests.tables import proc
from tests.volatility import Volatility, check_processes, plain

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.dump import Dump
    from tests.lab.guests import Made


@pytest.fixture(scope="session")
def volatility(guest: Made, tmp_path_factory: pytest.TempPathFactory) -> Volatility:
    if guest.truth["machine"]["paging_levels"] != 4:
        pytest.skip("Volatility 3 does not read 5-level page tables")
    return Volatility(guest.qmp_image, tmp_path_factory.mktemp("volatility"))


def test_pslist_tells_the_processes_of_the_guest(guest: Made, volatility: Volatility) -> None:
    check_processes(guest, volatility.run("linux.pslist.PsList"))


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
