from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from drgn.helpers.linux.pid import for_each_task
from hypothesis import given
from hypothesis import strategies as st

from memdump.kernel.paths import UNREADABLE, Path, Paths
from memdump.kernel.problems import Problems

from .forged import BASE, Forged

if TYPE_CHECKING:
    from memdump.dump import Dump
    from tests.lab.guests import Made

HLIST = {"d_sib": "struct hlist_node", "d_children": "struct hlist_head"}
LIST = {"d_child": "struct list_head", "d_subdirs": "struct list_head"}
TYPES = {
    "struct list_head": {"next": "u64", "prev": "u64"},
    "struct hlist_node": {"next": "u64", "pprev": "u64"},
    "struct hlist_head": {"first": "u64"},
    "struct qstr": {"hash": "u32", "len": "u32", "name": "u64"},
    "struct dentry": {
        "d_flags": "u32",
        "d_hash": "struct hlist_node",
        "d_parent": "u64",
        "d_name": "struct qstr",
        "d_inode": "u64",
        "d_iname": "char [32]",
        "d_sb": "u64",
        **HLIST,
    },
    "struct vfsmount": {"mnt_root": "u64", "mnt_sb": "u64"},
    "struct mount": {"mnt_parent": "u64", "mnt_mountpoint": "u64", "mnt": "struct vfsmount"},
    "struct inode": {"i_ino": "u64", "i_private": "u64"},
    "struct file_system_type": {"name": "struct text *"},
    "struct super_block": {"s_type": "struct file_system_type *"},
    "struct ns_common": {"ops": "struct proc_ns_operations *"},
    "struct proc_ns_operations": {"name": "struct text *"},
}


class Machine(Forged):
    """Mounts and dentries."""

    def __init__(self, siblings: dict[str, str] = HLIST) -> None:
        dentry = {name: type_ for name, type_ in TYPES["struct dentry"].items() if name not in HLIST}
        super().__init__({**TYPES, "struct dentry": {**dentry, **siblings}, "struct text": {"text": "char"}})
        self.problems = Problems()
        self.disk = self.superblock(b"ext4")
        self.root = self.dentry(b"/", 0)
        self.put("struct dentry", self.root, d_parent=self.root)
        self.whole = self.mount(self.root)

    def superblock(self, kind: bytes) -> int:
        type_ = self.put("struct file_system_type", name=self.string(kind))
        return self.put("struct super_block", s_type=type_)

    def dentry(
        self, name: bytes, parent: int, superblock: int = 0, hashed: bool = True, inode: int = 0
    ) -> int:
        address = self.allocate(256)
        if len(name) < 32:
            place = address + self.offset("struct dentry", "d_iname")
            self.write(place, name)
        else:
            place = self.string(name)
        return self.put(
            "struct dentry",
            address,
            d_parent=parent or address,
            d_name__name=place,
            d_name__len=len(name),
            d_sb=superblock or self.disk,
            d_hash__pprev=BASE if hashed else 0,
            d_inode=inode,
        )

    def mount(self, root: int, parent: int = 0, mount_point: int = 0) -> int:
        address = self.allocate(64)
        members = {"mnt_parent": parent or address, "mnt_mountpoint": mount_point, "mnt__mnt_root": root}
        return self.put("struct mount", address, **members)

    def find(self, dentry: int, mount: int | None = None) -> Path:
        vfsmount = (self.whole if mount is None else mount) + self.offset("struct mount", "mnt")
        return Paths(self.program, self.problems).find(vfsmount, dentry)


def test_folders_roots_and_programs_of_processes_are_as_proc_tells(guest: Made, dump: Dump) -> None:
    told = {process["pid"]: process for process in guest.truth["processes"]}
    paths = dump.kernel.paths
    checked = 0
    for task in for_each_task(dump.kernel.program):
        process = told.get(task.pid.value_())
        if process is None or process["cwd"] is None:
            continue
        found = {"cwd": paths.of(task.fs.pwd), "root": paths.of(task.fs.root)}
        if task.mm:
            found["exe"] = paths.of_mapped(task.mm.exe_file)
        for what, path in found.items():
            assert path.text + " (deleted)" * path.deleted == process[what], (process["pid"], what)
            checked += 1
    assert checked > 60


def test_a_path_goes_up_to_the_root_over_every_mount() -> None:
    machine = Machine()
    mnt = machine.dentry(b"mnt", machine.root)
    outer_root = machine.dentry(b"/", 0)
    outer = machine.mount(outer_root, machine.whole, mnt)
    usb = machine.dentry(b"usb", outer_root)
    inner_root = machine.dentry(b"/", 0)
    inner = machine.mount(inner_root, outer, usb)
    folder = machine.dentry(b"a folder", inner_root)
    assert machine.find(machine.dentry(b"file", folder), inner) == ("/mnt/usb/a folder/file", False)
    assert machine.find(inner_root, inner) == ("/mnt/usb", False)
    assert machine.find(machine.root) == ("/", False)


def test_a_mount_of_a_part_begins_at_that_part() -> None:
    machine = Machine()
    data, elsewhere = machine.dentry(b"data", machine.root), machine.dentry(b"srv", machine.root)
    bound = machine.mount(data, machine.whole, elsewhere)
    assert machine.find(machine.dentry(b"file", data), bound).text == "/srv/file"


@pytest.mark.parametrize(
    "name", [b"x", b"x" * 31, b"x" * 32, b"n" * 255, b"\xff\xfe", b"new\nline", b"\x1b[31m"]
)
def test_names_are_whole_and_byte_for_byte(name: bytes) -> None:
    machine = Machine()
    text = machine.find(machine.dentry(name, machine.root)).text
    assert text.encode("utf-8", "surrogateescape") == b"/" + name


def test_a_removed_file_is_said_to_be_deleted_beside_its_path() -> None:
    machine = Machine()
    assert machine.find(machine.dentry(b"gone", machine.root, hashed=False)) == ("/gone", True)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        (b"pipefs", b"", ("pipe:[4711]", False)),
        (b"sockfs", b"TCP", ("socket:[4711]", False)),
        (b"anon_inodefs", b"[eventfd]", ("anon_inode:[eventfd]", False)),
        (b"pidfs", b"", ("anon_inode:[pidfd]", False)),
        (b"nsfs", b"", ("net:[4711]", False)),
        (b"tmpfs", b"memfd:evil", ("/memfd:evil", True)),
        (b"hugetlbfs", b"anon_hugepage", ("/anon_hugepage", True)),
    ],
)
def test_files_outside_any_tree_are_called_as_proc_calls_them(
    kind: bytes, name: bytes, expected: tuple[str, bool]
) -> None:
    machine = Machine()
    namespace = machine.put("struct proc_ns_operations", name=machine.string(b"net"))
    inode = machine.put("struct inode", i_ino=4711, i_private=machine.put("struct ns_common", ops=namespace))
    superblock = machine.superblock(kind)
    pseudo_root = machine.dentry(kind, 0, superblock)
    dentry = machine.dentry(name, 0, superblock, hashed=False, inode=inode)
    assert machine.find(dentry, machine.mount(pseudo_root)) == expected


def test_a_namespace_that_is_mounted_has_the_path_of_its_mount() -> None:
    machine = Machine()
    at = machine.dentry(b"netns", machine.root)
    namespace = machine.dentry(b"", 0, machine.superblock(b"nsfs"))
    assert machine.find(namespace, machine.mount(namespace, machine.whole, at)).text == "/netns"


def test_what_is_known_of_a_path_is_told_where_a_folder_is_lost() -> None:
    machine = Machine()
    folder = machine.dentry(b"folder", BASE + (1 << 40))
    assert machine.find(machine.dentry(b"file", folder)).text == f"{UNREADABLE}/folder/file"
    assert [problem.place for problem in machine.problems] == [f"dentry {BASE + (1 << 40):#x}"]


@pytest.mark.parametrize("address", [0, 1, BASE + (1 << 40), (1 << 64) - 22])
def test_a_pointer_to_nowhere_is_noted(address: int) -> None:
    machine = Machine()
    assert machine.find(address) == (UNREADABLE, False)
    assert len(machine.problems) == 1


def test_a_length_that_no_name_has_is_torn() -> None:
    machine = Machine()
    dentry = machine.dentry(b"x" * 40, machine.root)
    machine.put("struct dentry", dentry, d_name__len=0xFFFF_FFFF)
    assert machine.find(dentry).text == UNREADABLE
    assert "4294967295 bytes" in next(iter(machine.problems)).reason


def test_folders_that_contain_each_other_come_to_an_end() -> None:
    machine = Machine()
    first = machine.dentry(b"first", BASE)
    second = machine.dentry(b"second", first)
    machine.put("struct dentry", first, d_parent=second)
    assert machine.find(machine.dentry(b"file", first)).text.startswith(UNREADABLE)


def test_mounts_that_stand_on_each_other_come_to_an_end() -> None:
    machine = Machine()
    root = machine.dentry(b"/", 0)
    first = machine.mount(root)
    second = machine.mount(root, first, root)
    machine.put("struct mount", first, mnt_parent=second, mnt_mountpoint=root)
    assert machine.find(root, first).text == UNREADABLE


@pytest.mark.parametrize("siblings", [HLIST, LIST], ids=["since 6.8", "before 6.8"])
def test_the_children_of_a_folder_are_listed(siblings: dict[str, str]) -> None:
    machine = Machine(siblings)
    folder = machine.dentry(b"folder", machine.root)
    children = [machine.dentry(b"%d" % number, folder) for number in range(3)]
    head, link = ("d_children", "d_sib") if siblings is HLIST else ("d_subdirs", "d_child")
    end = 0 if siblings is HLIST else folder + machine.offset("struct dentry", head)
    links = [child + machine.offset("struct dentry", link) for child in children]
    machine.put("struct dentry", folder, **{f"{head}__{'first' if siblings is HLIST else 'next'}": links[0]})
    for child, following in zip(children, [*links[1:], end], strict=True):
        machine.put("struct dentry", child, **{f"{link}__next": following})
    dentries = Paths(machine.program, machine.problems).dentries
    listed = list(dentries.children(folder, dentries.read(folder)))
    assert [(address, dentry.name) for address, dentry in listed] == [
        (child, str(number)) for number, child in enumerate(children)
    ]


@given(st.integers(0, 1 << 32))
def test_any_memory_gives_a_path_and_comes_to_an_end(seed: int) -> None:
    machine = Machine()
    chance = random.Random(seed)
    mounts = [machine.allocate(64) for _ in range(4)]
    dentries = [machine.allocate(256) for _ in range(8)]
    for mount in mounts:
        root, point = chance.choices(dentries, k=2)
        machine.put("struct mount", mount, mnt_parent=chance.choice(mounts), mnt_mountpoint=point)
        machine.put("struct mount", mount, mnt__mnt_root=root)
    for dentry in dentries:
        machine.write(dentry, chance.randbytes(200))
        length, name = chance.randrange(300), chance.choice([*dentries, chance.getrandbits(64)])
        machine.put("struct dentry", dentry, d_name__len=length, d_name__name=name)
        machine.put(
            "struct dentry", dentry, d_parent=chance.choice(dentries), d_sb=chance.choice([machine.disk, 8])
        )
    assert machine.find(dentries[0], mounts[0]).text
