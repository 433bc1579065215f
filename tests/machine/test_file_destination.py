"""A file as a destination, up to the last byte of its disk."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from memdump.errors import MemdumpError, UsageError
from memdump.machine import file_destination, gentle
from memdump.machine.destination import Options, open_destination
from memdump.machine.file_destination import FileDestination
from memdump.machine.output import NoRoom, Output
from memdump.machine.reserve import Reserve

MIB = 1 << 20
PLAIN = Options("unused")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sha256sum(*paths: Path) -> str:
    """What other programs say that these files hold together."""
    script = 'cat -- "$@" | sha256sum'
    done = subprocess.run(["sh", "-c", script, "sh", *paths], capture_output=True, check=True, text=True)
    return done.stdout.split()[0]


def digest(data: bytes) -> str:
    done = subprocess.run(["sha256sum"], input=data, capture_output=True, check=True)
    return done.stdout.decode().split()[0]


def test_a_file_and_what_belongs_to_it(tmp_path: Path) -> None:
    data = os.urandom(MIB)
    with open_destination(str(tmp_path / "a.lime"), PLAIN._replace(attachments=(".json",))) as place:
        assert (place.place, place.file) == (str(tmp_path / "a.lime"), "a.lime")
        place.write(memoryview(data)[:1000])
        place.write(data[1000:])
        assert names(tmp_path) == ["a.lime.part"]
        place.commit()
        place.attach(".json", b"{}")
        assert place.trouble is None
    assert names(tmp_path) == ["a.lime", "a.lime.json"]
    assert sha256sum(tmp_path / "a.lime") == digest(data)
    assert (tmp_path / "a.lime.json").read_bytes() == b"{}"
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_in_a_folder_it_gets_the_name_it_would_have(tmp_path: Path) -> None:
    with open_destination(str(tmp_path), Options("web1.lime")) as place:
        place.commit()
    assert names(tmp_path) == ["web1.lime"]


def test_what_is_not_committed_stays_a_part(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), FileDestination(tmp_path / "a.lime", PLAIN) as place:
        place.write(b"abc")
        raise ZeroDivisionError
    assert names(tmp_path) == ["a.lime.part"]
    assert place.partial == f"what was written stands in {tmp_path}/a.lime.part"
    with FileDestination(tmp_path / "b.lime", PLAIN) as place:
        place.write(b"abc")
        place.abandon()
        place.abandon()
        place.attach(".json", b"{}")
    assert names(tmp_path) == ["a.lime.part", "b.lime.json", "b.lime.part"]


@pytest.mark.parametrize("name", ["a.lime", "a.lime.part", "a.lime.json"])
def test_what_exists_is_told_before_anything_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(UsageError, match="exists already"):
        FileDestination(tmp_path / "a.lime", PLAIN._replace(attachments=(".json",)))
    assert names(tmp_path) == [name]


# One that fills a real disk: the blocks until there is trouble, an end of 1 MiB, a manifest.
FILL = """
import hashlib, json, os, sys
from pathlib import Path
from memdump.machine.destination import Options
from memdump.machine.file_destination import FileDestination
from memdump.machine.output import NoRoom, Output
from memdump.machine.reserve import Reserve
folder, split = Path(sys.argv[1]), int(sys.argv[2])
taken = hashlib.sha256()
options = Options("", attachments=(".json",), reserve=3 << 20, split=split)
with FileDestination(folder / "a.lime", options) as place:
    while place.trouble is None:
        data = os.urandom(100_000)
        place.write(data)
        taken.update(data)
    print(place.trouble)
    end = os.urandom(1 << 20)
    place.write(end)
    taken.update(end)
    place.abandon()
    place.attach(".json", b"x" * 100_000)
print(taken.hexdigest(), flush=True)
os.system(f"cat {folder}/a.lime*.part | sha256sum")
print(*sorted(os.listdir(folder)))
"""
SMALL = {
    "tmpfs": "mount -t tmpfs -o size=16m none $1",
    "ext4": "truncate -s 24M $1.disk && mkfs.ext4 -q $1.disk && mount -o loop $1.disk $1 && rmdir $1/l*",
    "vfat": "truncate -s 24M $1.disk && mkfs.vfat $1.disk >$1.log && mount -o loop $1.disk $1",
    "xfs": "truncate -s 300M $1.disk && mkfs.xfs -q $1.disk && mount -o loop $1.disk $1",
    "btrfs": "truncate -s 128M $1.disk && mkfs.btrfs -q $1.disk >$1.log 2>&1 && mount -o loop $1.disk $1",
}


@pytest.mark.parametrize("split", [0, 5 * MIB])
@pytest.mark.parametrize("kind", SMALL)
def test_a_real_disk_that_fills_up_leaves_a_part_with_an_orderly_end(
    tmp_path: Path, kind: str, split: int
) -> None:
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("mounting a small disk takes root and unshare (util-linux)")
    if kind != "tmpfs" and not shutil.which(f"mkfs.{kind}"):
        pytest.skip(f"mkfs.{kind} is not installed")
    (tmp_path / "disk").mkdir()
    script = f'{{ {SMALL[kind]}; }} || exit 77; exec "$2" -c "$3" "$1" {split}'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", tmp_path / "disk", sys.executable, FILL],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode == 77:
        pytest.skip(f"a small {kind} is not to be mounted here: {done.stderr.strip()}")
    assert done.stderr == ""
    trouble, taken, found, left = done.stdout.splitlines()
    assert trouble == "no room left on the disk"
    assert found.split()[0] == taken
    pieces = [f"a.lime.{number:03}.part" for number in range(len(left.split()) - 1)]
    assert left.split() == (sorted([*pieces, "a.lime.json"]) if split else ["a.lime.json", "a.lime.part"])


class Disk:
    """Answers for a disk with so many bytes for a file, which may notice only late that it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size: int, late: bool) -> None:
        self.size = size
        self.late = late
        self.reserved = True
        self._sync, self._pwrite = os.fdatasync, os.pwrite
        monkeypatch.setattr(os, "pwrite", self.write)
        monkeypatch.setattr(os, "fdatasync", self.sync)
        monkeypatch.setattr(Reserve, "release", self.release)

    def release(self) -> bool:
        before, self.reserved = self.reserved, False
        self.size += 20 * MIB if before else 0
        return before

    def write(self, fd: int, data: memoryview, at: int) -> int:
        room = self.size - at
        if self.late or len(data) <= room:
            return self._pwrite(fd, data, at)
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._pwrite(fd, data[:room], at)

    def sync(self, fd: int) -> None:
        end = os.fstat(fd).st_size
        if end > self.size:  # what found no room is lost, as on a network file system
            if hole := end - self.size:
                self._pwrite(fd, bytes(hole), self.size)
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        self._sync(fd)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("split", [0, 5 * MIB])
def test_a_disk_that_is_full_at_once_or_later_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool, split: int
) -> None:
    monkeypatch.setattr(file_destination, "_KNOW_THEIR_ROOM", () if late else ("all",))
    monkeypatch.setattr(file_destination, "room", lambda path: (None, "all"))
    Disk(monkeypatch, (4 if split else 20) * MIB, late)
    data = os.urandom(50 * MIB)
    with FileDestination(tmp_path / "a.lime", PLAIN._replace(split=split)) as place:
        taken = 0
        while place.trouble is None:
            place.write(data[taken : taken + 300_000])
            taken += 300_000
        place.write(b"the end")
        place.abandon()
    monkeypatch.undo()
    assert place.trouble == "no room left on the disk"
    assert sha256sum(*sorted(tmp_path.iterdir())) == digest(data[:taken] + b"the end")
    assert [(f"{part.name}.part", part.sha256) for part in place.parts] == [
        (path.name, sha256sum(path)) for path in sorted(tmp_path.iterdir()) if split
    ]


def test_a_disk_that_fills_up_at_the_very_end_holds_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_destination, "_KNOW_THEIR_ROOM", ())
    Disk(monkeypatch, 3 * MIB, late=True)
    data = os.urandom(4 * MIB)
    with FileDestination(tmp_path / "a.lime", PLAIN) as place:
        place.write(data)
        place.commit()
    monkeypatch.undo()
    assert place.trouble == "no room left on the disk"
    assert names(tmp_path) == ["a.lime"]
    assert sha256sum(tmp_path / "a.lime") == digest(data)


def test_a_disk_without_a_reserve_that_fills_up_at_the_very_end_leaves_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_destination, "_KNOW_THEIR_ROOM", ())
    Disk(monkeypatch, 3 * MIB, late=True).release()
    with FileDestination(tmp_path / "a.lime", PLAIN) as place:
        place.write(bytes(40 * MIB))
        with pytest.raises(MemdumpError, match="no room left"):
            place.commit()
    assert names(tmp_path) == ["a.lime.part"]


def test_the_reserve_takes_no_room_that_the_image_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(free: int | None, size: int) -> int:
        monkeypatch.setattr(file_destination, "room", lambda path: (free, "ext4"))
        place = FileDestination(tmp_path / "a.lime", PLAIN._replace(size=size, reserve=8 * MIB))
        with place:
            found = place._spare._fd
            size = os.fstat(found).st_size if found is not None else 0
        (tmp_path / "a.lime.part").unlink()
        return size

    assert held(1 << 40, 1 << 30) == 8 * MIB
    assert held(100 * MIB, 98 * MIB) == 2 * MIB
    assert held(100 * MIB, 100 * MIB) == 0
    assert held(100 * MIB, 500 * MIB) == 8 * MIB  # it is compressed, and is going to fit
    assert held(None, 100 * MIB) == 8 * MIB


@pytest.mark.parametrize("late", [False, True])
def test_when_the_reserve_is_used_up_too_it_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    monkeypatch.setattr(file_destination, "_KNOW_THEIR_ROOM", () if late else ("all",))
    monkeypatch.setattr(file_destination, "room", lambda path: (None, "all"))
    Disk(monkeypatch, 2 * MIB, late)
    with FileDestination(tmp_path / "a.lime", PLAIN) as place:
        with pytest.raises(MemdumpError, match=r"no room left .* what was written stands in .*a\.lime\.part"):
            for _ in range(8):
                place.write(bytes(gentle.EVERY))
        place.abandon()
    assert names(tmp_path) == ["a.lime.part"]


def test_a_full_disk_has_room_for_the_manifest_still(tmp_path: Path) -> None:
    with contextlib.closing(
        FileDestination(tmp_path / "a.lime", PLAIN._replace(attachments=(".json",)))
    ) as place:
        held = os.fstat(place._for_attachments._fd or -1)
        assert held.st_blocks * 512 >= 256 << 10
        assert held.st_nlink == 0
        place.abandon()
        place.attach(".json", b"{}")
        assert place._for_attachments._fd is None


def test_an_image_in_pieces(tmp_path: Path) -> None:
    data = os.urandom(5 * MIB // 2)
    with open_destination(str(tmp_path / "a.lime"), PLAIN._replace(split=MIB, size=3 * MIB)) as place:
        for start in range(0, len(data), 300_000):
            place.write(data[start : start + 300_000])
        assert names(tmp_path) == ["a.lime.000.part", "a.lime.001.part", "a.lime.002.part"]
        place.commit()
        place.attach(".json", b"{}")
        told = [tuple(part) for part in place.parts]
    assert names(tmp_path) == ["a.lime.000", "a.lime.001", "a.lime.002", "a.lime.json"]
    assert [path.stat().st_size for path in sorted(tmp_path.glob("*.0*"))] == [MIB, MIB, MIB // 2]
    assert told == [
        (path.name, path.stat().st_size, sha256sum(path)) for path in sorted(tmp_path.glob("*.0*"))
    ]
    whole = subprocess.run(
        "cat a.lime.0* | sha256sum", shell=True, cwd=tmp_path, capture_output=True, check=True
    )
    assert whole.stdout.decode().split()[0] == digest(data)


def test_pieces_settle_and_close_beside_the_writing(tmp_path: Path) -> None:
    data = os.urandom(MIB)
    with FileDestination(tmp_path / "a.lime", PLAIN._replace(split=MIB)) as place:
        for _ in range(100):
            place.write(data)
        opened = len(list(Path("/proc/self/fd").iterdir()))
        place.commit()
    assert opened < 60
    assert len(names(tmp_path)) == 100
    assert sha256sum(*sorted(tmp_path.iterdir())) == digest(data * 100)


def test_pieces_that_are_abandoned_are_parts_all_of_them(tmp_path: Path) -> None:
    with FileDestination(tmp_path / "a.lime", PLAIN._replace(split=MIB)) as place:
        place.write(bytes(MIB + 1))
    assert names(tmp_path) == ["a.lime.000.part", "a.lime.001.part"]
    assert place.partial.endswith("a.lime.000.part")


@pytest.mark.parametrize("name", ["a.lime.000", "a.lime.007.part"])
def test_no_piece_is_written_over_or_mixed_with_others(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        FileDestination(tmp_path / "a.lime", PLAIN._replace(split=MIB))
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB])
def test_pieces_are_digested_wherever_the_bytes_end(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    with FileDestination(tmp_path / "a.lime", PLAIN._replace(split=MIB)) as place:
        place.write(data)
        place.commit()
    assert [tuple(part) for part in place.parts] == [
        (path.name, path.stat().st_size, sha256sum(path)) for path in sorted(tmp_path.iterdir())
    ]


def test_pieces_are_told_without_the_write_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Output.write

    def write(self: Output, data: memoryview) -> int:
        if self.path.endswith(".002"):
            raise NoRoom
        return whole(self, data)

    data = os.urandom(4 * MIB)
    file = FileDestination(tmp_path / "a.lime", PLAIN._replace(split=MIB))
    with file as place:
        place.write(data[: MIB + 5])
        monkeypatch.setattr(Output, "write", write)
        with pytest.raises(NoRoom):
            place.write(data[MIB + 5 :])
        file._file.settle()  # the first ones are let go of then, one of them with bytes of the failed write
    monkeypatch.undo()
    assert {path.name: digest(path.read_bytes()) for path in tmp_path.iterdir()} == {
        "a.lime.000.part": digest(data[:MIB]),
        "a.lime.001.part": digest(data[MIB : MIB + 5]),
    }
    assert [tuple(part) for part in place.parts] == [
        ("a.lime.000", MIB, digest(data[:MIB])),
        ("a.lime.001", 5, digest(data[MIB : MIB + 5])),
    ]


def test_pieces_too_small_or_too_many_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make them 3 MiB at least"):
        FileDestination(tmp_path / "a.lime", PLAIN._replace(split=2 * MIB, size=2001 * MIB))
    with pytest.raises(UsageError, match="too small"):
        FileDestination(tmp_path / "a.lime", PLAIN._replace(split=MIB - 1))
    assert names(tmp_path) == []
