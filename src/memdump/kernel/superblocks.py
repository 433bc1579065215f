"""The mounted file systems: their superblocks, and where their trees are to be found."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import drgn
from drgn.helpers.linux.list import list_for_each_entry, list_for_each_entry_reverse

from memdump.kernel.text import decode, decode_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel

MOST = 1 << 16
"""No kernel has more file systems in use."""
MINOR_BITS = 20
"""A ``dev_t`` within the kernel: ``include/linux/kdev_t.h``."""


class Superblock(NamedTuple):
    """A file system in use."""

    address: int
    type: str
    """The name of the file system's type, as in ``/proc/filesystems``."""
    name: str
    """What the kernel calls it: mostly its block device, otherwise its type."""
    device: str
    """Major and minor number, as in ``/proc/self/mountinfo``."""
    root: int
    """Address of the dentry at the root of its tree."""
    struct: drgn.Object
    """The ``struct super_block *`` itself."""


def all_superblocks(kernel: Kernel, table: str) -> Iterator[Superblock]:
    """Every superblock of the kernel; what cannot be read is noted for ``table``.

    Their list is walked both ways, so that what is behind a break in it is found, too.
    """
    head = kernel.program["super_blocks"].address_of_()
    arguments = ("struct super_block", head, "s_list")
    found: dict[int, drgn.Object] = {}
    for walk in (list_for_each_entry, list_for_each_entry_reverse):
        for each in kernel.problems.walk(table, "the list of superblocks", walk(*arguments), MOST):
            found.setdefault(each.value_(), each)
    for each in found.values():
        with kernel.problems.skipping(table, f"superblock {each.value_():#x}"):
            device = each.s_dev.value_()
            yield Superblock(
                each.value_(),
                decode(each.s_type.name.string_()),
                decode_name(bytes(each.s_id.value_())),
                f"{device >> MINOR_BITS}:{device & (1 << MINOR_BITS) - 1}",
                each.s_root.value_(),
                each,
            )


def mount_points(kernel: Kernel, superblock: Superblock, table: str) -> dict[int, str]:
    """Paths where a file system is mounted, by the address of the dentry there; without a slash at the end.

    Where the whole of it is mounted in the first mount namespace, that is all there is to know; else there
    may be several mounts of parts of it, or none.
    """
    first = kernel.program["init_task"].nsproxy.mnt_ns.value_()
    candidates = []
    mounts = _mounts(superblock.struct)
    for mount in kernel.problems.walk(table, f"mounts of superblock {superblock.address:#x}", mounts):
        with kernel.problems.skipping(table, f"mount {mount.value_():#x}"):
            namespace, root = mount.mnt_ns.value_(), mount.mnt.mnt_root.value_()
            if _is_pointer(namespace):
                candidates.append((namespace != first, root != superblock.root, mount.value_(), root))
    candidates.sort(key=lambda candidate: candidate[:2])
    found: dict[int, str] = {}
    for _, is_part, mount, root in candidates:
        found.setdefault(root, kernel.paths.mount_point(mount).rstrip("/"))
        if not is_part:
            break
    return found


def _mounts(superblock: drgn.Object) -> Iterator[drgn.Object]:
    """A ``list_head`` until Linux 6.17, then a list of plain pointers."""
    if superblock.s_mounts.type_.kind is drgn.TypeKind.POINTER:
        mount = superblock.s_mounts.read_()
        while mount:
            yield mount
            mount = mount.mnt_next_for_sb.read_()
    else:
        yield from list_for_each_entry("struct mount", superblock.s_mounts.address_of_(), "mnt_instance")


def _is_pointer(namespace: int) -> bool:
    """False for a mount that belongs to nobody, or (``ERR_PTR``) to the kernel itself."""
    return 0 < namespace < (1 << 64) - 4096
