"""The ``mounts`` table: what is mounted where, in every mount namespace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from drgn import cast
from drgn.helpers.linux.list import list_for_each_entry

from memdump.kernel import rbtree
from memdump.kernel.text import decode
from memdump.tables.schema import DETAIL, table
from memdump.tables.tasks import all_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drgn import Object

    from memdump.kernel.kernel import Kernel

MNT_READONLY = 0x40
MOUNT_OPTIONS = {
    0x01: "nosuid",
    0x02: "nodev",
    0x04: "noexec",
    0x08: "noatime",
    0x10: "nodiratime",
    0x20: "relatime",
    0x80: "nosymfollow",
}
"""Bits of ``vfsmount.mnt_flags`` (``include/linux/mount.h``) in the order of ``show_mnt_opts``."""
SB_RDONLY = 1
SUPERBLOCK_OPTIONS = {1 << 4: "sync", 1 << 7: "dirsync", 1 << 6: "mand", 1 << 25: "lazytime"}
"""Bits of ``super_block.s_flags`` (``include/linux/fs.h``) in the order of ``show_sb_opts``."""
MOST_MOUNTS = 1 << 20
DEEPEST = 4096
"""No folder lies deeper: its path would be longer than PATH_MAX allows."""


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A mount, in the order of /proc/PID/mounts; also what lies below the root, which /proc does not show."""

    mount_point: Annotated[str, "Where it is mounted, seen from the root of its mount namespace"]
    source: Annotated[str, "What is mounted, as whoever mounted it wrote it: a device, a share, any word"]
    type: Annotated[str, "Type of the file system"]
    options: Annotated[
        str,
        "Options of the file system and of this mount, then the folders that an overlay is made of; what "
        "other file systems keep to themselves is not told",
    ]
    namespace: Annotated[int, "Inode number of the mount namespace"]
    root: Annotated[str, "The folder of the file system that is seen at the mount point", DETAIL]
    device: Annotated[str, "Major and minor device number", DETAIL]
    mount_id: Annotated[int, "Number of the mount", DETAIL]
    parent_id: Annotated[int, "Number of the mount that it is mounted on", DETAIL]


@table(MountPoint)
def mounts(kernel: Kernel) -> Iterator[MountPoint]:
    """Follow the list of mounts of every mount namespace that a thread lives in (``fs/namespace.c``)."""
    for namespace, found in _namespaces(kernel).items():
        for mount in kernel.problems.walk("mounts", f"namespace {namespace}", _mounts_in(found), MOST_MOUNTS):
            with kernel.problems.skipping("mounts", f"mount {mount.value_():#x}"):
                row = _row(kernel, mount, namespace)
                if row:
                    yield row


def _namespaces(kernel: Kernel) -> dict[int, Object]:
    """Every ``struct mnt_namespace *`` by its inode number."""
    found: dict[int, Object] = {}
    seen = set()
    for task in all_tasks(kernel, "mounts"):
        with kernel.problems.skipping("mounts", f"mount namespace of {task.name} ({task.pid})"):
            proxy = task.struct.nsproxy
            if proxy and proxy.value_() not in seen:
                seen.add(proxy.value_())
                namespace = proxy.mnt_ns.read_()
                found.setdefault(namespace.ns.inum.value_(), namespace)
    return found


def _mounts_in(namespace: Object) -> Iterator[Object]:
    if hasattr(namespace, "list"):
        return list_for_each_entry("struct mount", namespace.list.address_of_(), "mnt_list")
    # A tree from 6.8 on.
    return rbtree.entries(namespace.mounts, "struct mount", "mnt_node")


def _row(kernel: Kernel, pointer: Object, namespace: int) -> MountPoint | None:
    mount: Any = pointer[0].read_()
    superblock = mount.mnt.mnt_sb.read_()
    if not superblock:  # From 5.8 to 6.7, the place where a reader of /proc/PID/mounts stands.
        return None
    block = superblock[0]
    type_ = _type(block)
    device = block.s_dev.value_()
    return MountPoint(
        mount_point=kernel.paths.mount_point(pointer.value_()),
        source=decode(mount.mnt_devname.string_()) if mount.mnt_devname else "none",
        type=type_,
        options=",".join(_options(mount, block, type_)),
        namespace=namespace,
        root=_root(kernel, mount, block, type_),
        device=f"{device >> 20}:{device & 0xFFFFF}",
        mount_id=mount.mnt_id.value_(),
        parent_id=mount.mnt_parent.mnt_id.value_(),
    )


def _type(superblock: Object) -> str:
    name = superblock.s_type.name.string_()
    if superblock.s_subtype:
        name += b"." + superblock.s_subtype.string_()
    return decode(name)


def _options(mount: Object, superblock: Object, type_: str) -> Iterator[str]:
    """As ``show_vfsmnt`` of ``fs/proc_namespace.c`` writes them."""
    mount_flags, flags = mount.mnt.mnt_flags.value_(), superblock.s_flags.value_()
    yield "ro" if mount_flags & MNT_READONLY or flags & SB_RDONLY else "rw"
    yield from (name for bit, name in SUPERBLOCK_OPTIONS.items() if flags & bit)
    yield from (name for bit, name in MOUNT_OPTIONS.items() if mount_flags & bit)
    if type_ == "overlay":
        yield from _layers(superblock)


def _layers(superblock: Object) -> Iterator[str]:
    """The folders of an overlay (``fs/overlayfs/``); none where the kernel does not tell its types."""
    try:
        config = cast("struct ovl_fs *", superblock.s_fs_info).config.read_()
    except LookupError:  # Before 5.11, modules brought no types along.
        return
    # From 6.5 on an array of the options as they were written, one for each layer.
    lower = config.lowerdirs[0] if hasattr(config, "lowerdirs") else config.lowerdir
    for name, value in (("lowerdir", lower), ("upperdir", config.upperdir), ("workdir", config.workdir)):
        if value:
            yield f"{name}={decode(value.string_())}"


def _root(kernel: Kernel, mount: Object, superblock: Object, type_: str) -> str:
    root = mount.mnt.mnt_root.value_()
    if root == superblock.s_root.value_():
        return "/"
    dentry = kernel.paths.dentry(root)
    if type_ == "nsfs" and dentry.parent == root:
        namespace = cast("struct ns_common *", mount.mnt.mnt_root.d_inode.i_private)
        return f"{decode(namespace.ops.name.string_())}:[{namespace.inum.value_()}]"
    names = []
    for _ in range(DEEPEST):
        if dentry.parent == root:
            break
        names.append(dentry.name)
        root = dentry.parent
        dentry = kernel.paths.dentry(root)
    return "/" + "/".join(reversed(names))
