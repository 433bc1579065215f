from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING, Any

import pytest

from tests.tables import proc

if TYPE_CHECKING:
    from memdump.dump import Dump
    from memdump.tables.open_files import OpenFile
    from tests.lab.guests import Made

O_PATH = 0o10000000
ACCESS = {0: "r", 1: "w", 2: "rw"}
"""``O_RDONLY``, ``O_WRONLY``, ``O_RDWR``."""
TYPES = {
    stat.S_IFREG: "regular",
    stat.S_IFDIR: "directory",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "pipe",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


def rows(dump: Dump) -> dict[tuple[int, int], OpenFile]:
    found = {(row.pid, row.fd): row for row in dump.table("open_files")}
    assert not [problem for problem in dump.problems if problem.table == "open_files"]
    return found


def told(guest: Made) -> dict[tuple[int, int], dict[str, Any]]:
    """What /proc said, but of the process that was reading it."""
    return {
        (pid, entry["fd"]): entry
        for pid, process in proc.processes(guest).items()
        for entry in process.get("fds", [])
        if pid != proc.recorder(guest)
    }


@pytest.mark.lab
def test_the_descriptors_are_those_in_the_folders_fd(guest: Made, dump: Dump) -> None:
    found = {key for key in rows(dump) if key[0] != proc.recorder(guest)}
    assert found == set(told(guest))


@pytest.mark.lab
def test_paths_are_what_the_links_say(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    for key, entry in told(guest).items():
        row, target = found[key], entry["target"]
        assert (row.path, row.deleted) == (target.removesuffix(proc.DELETED), target.endswith(proc.DELETED))


@pytest.mark.lab
def test_types_inodes_and_devices_are_what_stat_says(guest: Made, dump: Dump) -> None:
    found, mounted = rows(dump), devices(guest)
    for key, entry in told(guest).items():
        row = found[key]
        assert row.type == kind(entry), row
        assert row.inode == entry["inode"]
        # What has no mount that one can see is a pipe, a socket and so on; and an overlay gives its files the
        # device of the layer below.
        seen = mounted.get(proc.status(entry["fdinfo"])["mnt_id"])
        assert row.device == (seen or ":".join(map(str, entry["device"])))


def devices(guest: Made) -> dict[str, str]:
    """The device of each mount by its id."""
    lines = [line.split() for text in guest.truth["mounts"].values() for line in (text or "").splitlines()]
    return {line[0]: line[2] for line in lines}


def kind(entry: dict[str, Any]) -> str:
    """The type that a link and the mode of what it leads to tell of."""
    target = entry["target"]
    special = re.fullmatch(r"anon_inode:\[?([^]]*)\]?", target)
    if special:
        return special[1]
    if target.startswith("/memfd:"):
        return "memfd"
    return TYPES[stat.S_IFMT(entry["mode"])]


@pytest.mark.lab
def test_modes_and_positions_are_what_fdinfo_says(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    for key, entry in told(guest).items():
        info = proc.status(entry["fdinfo"])
        flags = int(info["flags"], 8)
        row = found[key]
        assert row.position == int(info["pos"])
        assert row.mode == ("path" if flags & O_PATH else ACCESS[flags & 3])


@pytest.mark.lab
def test_every_kind_of_descriptor_is_among_them(guest: Made, dump: Dump) -> None:
    pid = proc.role(guest, "open_files")
    found = {row.type for (process, _), row in rows(dump).items() if process == pid}
    kinds = {"regular", "directory", "pipe", "char", "memfd", "eventpoll", "eventfd", "timerfd", "signalfd"}
    assert kinds | {"inotify", "pidfd"} <= found


@pytest.mark.lab
def test_a_removed_file_that_is_still_open_is_told(guest: Made, dump: Dump) -> None:
    pid = proc.role(guest, "open_files")
    found = [row for row in dump.table("open_files") if row.pid == pid and row.deleted]
    gone = [row for row in found if row.path.endswith("/open and deleted")]
    assert [(row.position, row.mode, row.type) for row in gone] == [(1234, "rw", "regular")] * 2
