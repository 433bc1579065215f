from __future__ import annotations

import importlib
import os
import stat
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from drgn import offsetof

from memdump.kernel import open_kernel
from memdump.kernel.inodes import Inodes
from memdump.kernel.superblocks import all_superblocks
from tests.kernel.images import Altered

if TYPE_CHECKING:
    from memdump.dump import Dump
    from memdump.kernel.kernel import Kernel
    from memdump.kernel.superblocks import Superblock
    from tests.lab.guests import Made

PAGE = 4096
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TYPES = {
    stat.S_IFREG: "regular",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "pipe",
    stat.S_IFCHR: "char",
}
RECORDED_IN = {"/run/loot", "/mnt/data"}
"""The file systems on which nothing but the scenario changes anything."""


@pytest.fixture(scope="module")
def rows(dump: Dump) -> list[Any]:
    return list(dump.table("recent_files"))


def time(nanoseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=nanoseconds // 1000)


def device(numbers: list[int]) -> str:
    return f"{numbers[0]}:{numbers[1]}"


def test_files_and_folders_are_as_lstat_told(guest: Made, rows: list[Any]) -> None:
    by_path = {row.path: row for row in rows}
    for told in guest.truth["known_files"]:
        row = by_path[told["path"]]
        assert (row.type, row.size, row.modified, row.changed) == (
            TYPES[stat.S_IFMT(told["mode"])],
            told["size"],
            time(told["mtime_ns"]),
            time(told["ctime_ns"]),
        )
        assert row.permissions == stat.filemode(told["mode"])[1:]
        assert (row.uid, row.gid, row.links) == (told["uid"], told["gid"], told["links"])
        assert (row.inode, row.device) == (told["inode"], device(told["device"]))
        assert not row.deleted
        if row.type != "symlink":  # where it leads was asked after its times: that was an access
            assert row.accessed == time(told["atime_ns"])


def test_what_was_written_is_in_the_page_cache(guest: Made, rows: list[Any]) -> None:
    """Every file of the scenario was written whole, but for one that has no content at all."""
    by_path = {row.path: row for row in rows}
    for told in guest.truth["known_files"]:
        if stat.S_ISREG(told["mode"]):
            whole = -(-told["size"] // PAGE) * PAGE
            cached = by_path[told["path"]].cached_bytes
            assert cached == (0 if told["path"].endswith("/sparse") else whole)


def test_both_names_of_a_file_are_listed(guest: Made, rows: list[Any]) -> None:
    for base in RECORDED_IN:
        first, second = (
            [row for row in rows if row.path == f"{base}/{name}"] for name in ("plain.txt", "second-name")
        )
        assert [row.inode for row in first] == [row.inode for row in second]
        assert len(first) == 1


def test_files_that_are_open_and_deleted_are_listed_as_deleted(guest: Made, rows: list[Any]) -> None:
    deleted = {(row.device, row.inode): row for row in rows if row.deleted}
    checked = set()
    for process in guest.truth["processes"]:
        for descriptor in process.get("fds", []):
            target = descriptor["target"] or ""
            if (
                target.endswith(" (deleted)")
                and descriptor.get("links") == 0
                and stat.S_ISREG(descriptor["mode"])
            ):
                row = deleted[device(descriptor["device"]), descriptor["inode"]]
                assert (row.path, row.size) == (target.removesuffix(" (deleted)"), descriptor["size"])
                assert row.cached_bytes == -(-row.size // PAGE) * PAGE
                checked.add(target)
    assert {
        "/run/loot/open and deleted (deleted)",
        "/mnt/data/open and deleted (deleted)",
        "/memfd:stage2 (deleted)",
    } <= checked


def test_a_file_that_nothing_used_when_it_was_removed_is_gone(guest: Made, rows: list[Any]) -> None:
    paths = {row.path for row in rows}
    gone = {told["path"] for told in guest.truth["scenario"]["deleted_files"]}
    assert len(gone) == len(RECORDED_IN)
    assert not gone & paths


def test_every_open_file_of_a_real_file_system_is_listed(guest: Made, rows: list[Any]) -> None:
    known = {(row.device, row.inode): row for row in rows}
    kinds = {row.device: row.file_system for row in rows}
    for process in guest.truth["processes"]:
        for descriptor in process.get("fds", []):
            where = device(descriptor["device"]) if "device" in descriptor else ""
            if kinds.get(where) in ("ext4", "tmpfs", "devtmpfs") and descriptor["target"].startswith("/"):
                assert (where, descriptor["inode"]) in known, descriptor["target"]


def test_file_systems_are_called_as_in_mountinfo(guest: Made, rows: list[Any]) -> None:
    told = {}
    for line in "".join(guest.truth["mounts"].values()).splitlines():
        before, _, after = line.partition(" - ")
        told[before.split()[2]] = after.split()[0]
    found = {row.device: row.file_system for row in rows}
    assert {where: kind for where, kind in found.items() if where in told} == {
        where: told[where] for where in found if where in told
    }
    assert {"ext4", "tmpfs"} <= set(found.values())
    assert not {"proc", "sysfs", "cgroup2", "pipefs", "sockfs"} & set(found.values())


def test_files_that_only_a_container_has_mounted_have_the_path_it_sees(rows: list[Any]) -> None:
    notes = [row for row in rows if row.path and row.path.endswith("/notes")]
    assert [(row.path, row.size, row.file_system) for row in notes] == [("/run/inner/notes", 6, "tmpfs")]


def test_what_is_mounted_in_part_only_has_the_paths_of_that_part(
    dump: Dump, rows: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("memdump.tables.recent_files")
    whole = module.mount_points
    folder = next(row for row in rows if row.path == "/run/loot/deep")

    def in_part(kernel: Kernel, superblock: Superblock, table: str) -> dict[int, str]:
        """As if nothing but that folder of its file system were mounted."""
        if superblock.device != folder.device:
            return whole(kernel, superblock, table)  # type: ignore[no-any-return]
        dentries = kernel.paths.dentries
        root = superblock.root
        children = dentries.children(root, dentries.read(root))
        return {address: "/part" for address, dentry in children if dentry.name == "deep"}

    monkeypatch.setattr(module, "mount_points", in_part)
    here = [row for row in module.recent_files.rows(dump.kernel) if row.device == folder.device]
    paths = {row.path for row in here if not row.deleted}
    assert {"/part", "/part/er/still/secret.key", "[tmpfs]/plain.txt"} <= paths
    assert all(path.startswith(("/part", "[tmpfs]/")) for path in paths)


def test_all_of_it_can_be_read(dump: Dump, rows: list[Any]) -> None:
    assert rows
    assert [problem for problem in dump.kernel.problems if problem.table in ("", "recent_files")] == []


def test_the_last_changed_comes_first(rows: list[Any]) -> None:
    changed = [row.changed for row in rows]
    assert changed == sorted(changed, reverse=True)
    assert len(rows) > 300


def test_paths_are_bytes_that_need_not_be_text(guest: Made, rows: list[Any]) -> None:
    names = defaultdict(set)
    for row in rows:
        folder, _, name = (row.path or "").rpartition("/")
        names[folder].add(os.fsencode(name))
    for base in RECORDED_IN:
        assert {b"not-utf8-\xff\xfe", b"escape-\x1b]0;owned\x07", b"new\nline", "日本語".encode()} <= names[
            base
        ]


def test_a_break_in_a_list_loses_nothing(dump: Dump, rows: list[Any]) -> None:
    """The list of superblocks, that of a file system's inodes, and that of a folder's entries."""
    kernel = dump.kernel
    superblocks = list(all_superblocks(kernel, "recent_files"))
    data = next(found for found in superblocks if found.type == "ext4")
    inodes = list(Inodes(kernel.program).of_superblock(data.address))
    dentries = kernel.paths.dentries
    children = list(dentries.children(data.root, dentries.read(data.root)))
    inode, dentry = (kernel.program.type(f"struct {name}") for name in ("inode", "dentry"))
    sibling = offsetof(dentry, "d_sib.next" if dentry.has_member("d_sib") else "d_child.next")
    broken = (
        superblocks[len(superblocks) // 2].struct.s_list.address_of_().value_(),
        inodes[len(inodes) // 2][0] + offsetof(inode, "i_sb_list.next"),
        children[0][0] + sibling,
    )
    torn = open_kernel(Altered(dump.image, {address - kernel.direct_map: b"\xde" * 8 for address in broken}))
    found = list(importlib.import_module("memdump.tables.recent_files").recent_files.rows(torn))
    assert {(row.device, row.inode, row.path) for row in found} == {
        (row.device, row.inode, row.path) for row in rows
    }
    assert len([problem for problem in torn.problems if problem.table == "recent_files"]) >= len(broken)
