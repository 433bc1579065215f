from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from memdump.errors import UsageError
from memdump.machine import destination, host
from memdump.machine.progress import Progress, duration


def file_system(path: Path) -> str:
    stat = subprocess.run(["stat", "-f", "-c", "%T", path], check=True, capture_output=True, text=True)
    return stat.stdout.strip()


def test_a_folder_in_memory_is_refused_with_the_way_out() -> None:
    if not Path("/dev/shm").is_dir() or file_system(Path("/dev/shm")) != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    with pytest.raises(UsageError, match=r"lies in memory \(tmpfs\).*another machine"):
        destination.check(Path("/dev/shm/a.lime"), 1)


def test_too_little_room_is_refused_with_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destination, "_IN_RAM", ())
    room = os.statvfs(tmp_path)
    free = (room.f_bfree if os.geteuid() == 0 else room.f_bavail) * room.f_frsize
    destination.check(tmp_path / "a.lime", max(free - (64 << 20), 0))
    with pytest.raises(UsageError, match=r"room for \d+ MiB .* takes \d+"):
        destination.check(tmp_path / "a.lime", free + (1 << 30))


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name a folder that exists"):
        destination.check(tmp_path / "none" / "a.lime", 1)


def device(path: Path) -> str:
    number = path.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def test_the_type_of_a_mount_is_read_past_its_optional_fields(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 999:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        f"36 22 {device(tmp_path)} / /run/a\\040b rw,nosuid shared:5 master:2 - tmpfs tmpfs rw,size=1g\n"
    )
    assert destination._file_system(tmp_path, str(mounts)) == "tmpfs"
    mounts.write_text("22 1 999:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\ngarbage - \n")
    assert destination._file_system(tmp_path, str(mounts)) is None


def test_an_overlay_is_where_its_upper_folder_is(tmp_path: Path) -> None:
    upper = Path("/proc")
    mounts = tmp_path / "mountinfo"
    overlay = f"22 1 {device(tmp_path)} / / rw - overlay overlay rw,lowerdir=/a,upperdir=/proc,workdir=/b\n"
    mounts.write_text(overlay)
    assert destination._file_system(tmp_path, str(mounts)) == "overlay"
    mounts.write_text(overlay + f"23 1 {device(upper)} / /proc rw - tmpfs tmpfs rw\n")
    assert destination._file_system(tmp_path, str(mounts)) == "tmpfs"


@pytest.mark.parametrize(
    ("disks", "found"),
    [
        (["zram0"], "zram0"),
        (["ram1"], "ram1"),
        (["sda1"], None),
        (["dm-0", "sda1"], None),
        (["dm-0", "dm-1", "zram3"], "zram3"),
        (["ramdisk"], None),
    ],
)
def test_a_disk_that_is_memory_is_told_from_others_also_below_lvm(
    tmp_path: Path, disks: list[str], found: str | None
) -> None:
    """The folders as the kernel's Documentation/ABI/stable/sysfs-block describes them."""
    (tmp_path / "dev").mkdir()
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 {device(tmp_path)} / / rw - ext4 /dev/{disks[0]} rw\n")
    above = tmp_path / "dev" / device(tmp_path)
    for disk in disks:
        here = tmp_path / "block" / disk
        (here / "slaves").mkdir(parents=True)
        above.symlink_to(here)
        above = here / "slaves" / "below"
    assert destination._disk_in_ram(tmp_path, str(mounts), str(tmp_path / "dev")) == found


def test_a_disk_of_the_kernel_that_is_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = device(tmp_path)
    (tmp_path / number).symlink_to("/sys/devices/virtual/block/zram0")
    monkeypatch.setattr(destination._disk_in_ram, "__defaults__", (destination._MOUNTS, str(tmp_path)))
    monkeypatch.setattr(destination, "_IN_RAM", ())
    with pytest.raises(UsageError, match=r"lies in memory \(zram0\).*another machine"):
        destination.check(tmp_path / "a.lime", 1)


def test_standard_output_refuses_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        with pytest.raises(UsageError, match="terminal"):
            destination.StandardOutput()
    os.close(master)


def test_an_image_is_named_after_host_and_time() -> None:
    name, _, tail = host.image_name("../wéb 1.example").rpartition("-")
    assert name == "_w_b_1.example"
    assert len(tail) == len("20260131T235959Z.lime")
    assert tail.endswith("Z.lime")


def test_a_progress_line_has_amount_rate_and_the_time_left() -> None:
    line = Progress(1 << 30).line(256 << 20, 2.0)
    assert line == "[#######.......................]  25%  256 of 1,024 MiB  128 MiB/s  0:06 left"
    assert "left" not in Progress(1 << 30).line(0, 0.0)
    assert duration(3723.4) == "1:02:03"


def test_no_progress_is_drawn_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    progress = Progress(100, sys.stderr)
    progress(50)
    progress.clear()
    assert capsys.readouterr().err == ""
