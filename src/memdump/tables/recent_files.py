"""The ``recent_files`` table: what the dentry and inode caches remember of files and folders."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the columns are made of it
from stat import filemode
from typing import TYPE_CHECKING, Annotated, NamedTuple

from memdump.kernel.clocks import utc
from memdump.kernel.inodes import Inode, Inodes, type_of
from memdump.kernel.paths import LONGEST, TOO_LONG
from memdump.kernel.problems import SMEAR
from memdump.kernel.superblocks import Superblock, all_superblocks, mount_points
from memdump.tables.schema import DETAIL, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.dentries import Dentry
    from memdump.kernel.kernel import Kernel

# fmt: off
LEFT_OUT = frozenset((
    "aio", "anon_inodefs", "apparmorfs", "autofs", "bdev", "binder", "binfmt_misc", "cgroup", "cgroup2",
    "configfs", "dax", "debugfs", "devmem", "devpts", "dmabuf", "drm", "efivarfs", "failfs", "fusectl",
    "iomem", "nfsd", "nsfs", "nullfs", "pidfs", "pipefs", "proc", "pstore", "resctrl", "rpc_pipefs",
    "securityfs", "selinuxfs", "smackfs", "sockfs", "sysfs", "tracefs",
))
# fmt: on
"""File systems that keep no files: what is in them the kernel makes up, or other tables tell."""


@dataclass(frozen=True, slots=True)
class RecentFile:
    """A file or folder that the kernel remembers, the last changed first, without /proc, /sys and their like.

    What has two names is in here twice.  A file that was removed while nothing used it is not remembered.
    """

    changed: Annotated[
        datetime | None, "When its content or attributes last changed, by the kernel's clock: hard to forge"
    ]
    path: Annotated[
        str | None,
        "Path in the first mount namespace, or in another that has it mounted, or from the [type] of its "
        "file system on; None where only the inode is remembered",
    ]
    type: Annotated[str | None, "regular, directory, symlink, pipe, socket, block or char"]
    size: Annotated[int, "Size in bytes"]
    deleted: Annotated[bool, "Whether this name, or the last of its names, was removed"]
    modified: Annotated[
        datetime | None, "When its content last changed, or what someone said with touch", DETAIL
    ]
    accessed: Annotated[
        datetime | None, "When it was last read, as far as mount options have that noted", DETAIL
    ]
    cached_bytes: Annotated[int | None, "How much of its content is in memory, in bytes", DETAIL]
    uid: Annotated[int, "Owner", DETAIL]
    gid: Annotated[int, "Group", DETAIL]
    permissions: Annotated[str, "As ls -l shows them", DETAIL]
    links: Annotated[int, "How many names it has on its file system", DETAIL]
    inode: Annotated[int, "Number of its inode", DETAIL]
    device: Annotated[str, "Major and minor number of its file system's device", DETAIL]
    file_system: Annotated[str, "Type of its file system", DETAIL]


class Found(NamedTuple):
    """What a row is made of when its turn comes."""

    path: str | None
    deleted: bool
    address: int
    """Of the inode."""
    inode: Inode
    superblock: Superblock


@table(RecentFile)
def recent_files(kernel: Kernel) -> Iterator[RecentFile]:
    """Walk the tree of every file system, then take what else its list of inodes has."""
    inodes = Inodes(kernel.program)
    found: list[Found] = []
    for superblock in all_superblocks(kernel, "recent_files"):
        if superblock.type not in LEFT_OUT:
            found += _FileSystem(kernel, inodes, superblock).files()
    found.sort(key=lambda each: (-each.inode.changed, each.path or ""))
    for each in found:
        yield _row(kernel, inodes, each)


def _row(kernel: Kernel, inodes: Inodes, found: Found) -> RecentFile:
    inode = found.inode
    try:
        cached = inodes.cached_bytes(found.address, inode)
    except SMEAR as error:
        kernel.problems.add("recent_files", f"cached pages of inode {found.address:#x}", error)
        cached = None
    return RecentFile(
        changed=utc(inode.changed),
        path=found.path,
        type=type_of(inode.mode),
        size=inode.size,
        modified=utc(inode.modified),
        accessed=utc(inode.accessed),
        cached_bytes=cached,
        deleted=found.deleted,
        uid=inode.uid,
        gid=inode.gid,
        permissions=filemode(inode.mode)[1:],
        links=inode.links,
        inode=inode.number,
        device=found.superblock.device,
        file_system=found.superblock.type,
    )


class _FileSystem:
    """The files of one file system."""

    def __init__(self, kernel: Kernel, inodes: Inodes, superblock: Superblock) -> None:
        self.paths, self.problems = kernel.paths, kernel.problems
        self.inodes = inodes
        self.superblock = superblock
        self.name = f"{superblock.type} {superblock.device}"
        self.mount_points = mount_points(kernel, superblock, "recent_files")
        self.listed = self._list()
        self.seen: set[int] = set()
        """Inodes that the tree has."""

    def files(self) -> Iterator[Found]:
        """Every file that is in the tree, then those outside it that have a name or something in them."""
        for path, dentry in self._tree():
            try:
                inode = self.listed.get(dentry.inode) or self.inodes.read(dentry.inode)
            except SMEAR as error:
                self.problems.add("recent_files", path, error)
                continue
            self.seen.add(dentry.inode)
            yield Found(path, not dentry.hashed or not inode.links, dentry.inode, inode, self.superblock)
        for address, inode in self.listed.items():
            # A file system may keep something of its own in an inode, which has no type then.
            is_file = inode.alias or (inode.own_pages and type_of(inode.mode))
            if address not in self.seen and is_file:
                yield self._outside(address, inode)

    def _list(self) -> dict[int, Inode]:
        """The inodes of the file system by address, also of what is behind a break of their list."""
        listed: dict[int, Inode] = {}
        place = f"list of inodes of {self.name}"
        with self.problems.skipping("recent_files", place):
            for address, inode in self.inodes.of_superblock(self.superblock.address):
                if address in listed:
                    raise ValueError(f"it runs into itself at {address:#x}")
                listed[address] = inode
            return listed
        with self.problems.skipping("recent_files", f"{place}, backwards"):
            for address, inode in self.inodes.of_superblock(self.superblock.address, backwards=True):
                if address in listed:
                    break
                listed[address] = inode
        return listed

    def _tree(self) -> Iterator[tuple[str, Dentry]]:
        """Path and dentry of everything in the tree that exists; a root mounted nowhere is no file."""
        root = self.superblock.root
        path = self.mount_points.get(root)
        below: list[tuple[int, Dentry, str]] = []
        with self.problems.skipping("recent_files", f"root of {self.name}"):
            dentry = self.paths.dentries.read(root)
            self.seen.add(dentry.inode)
            below.append((root, dentry, f"[{self.superblock.type}]" if path is None else path))
            if path is not None:
                yield path or "/", dentry._replace(hashed=True)
        visited = {root}
        while below:
            address, dentry, path = below.pop()
            with self.problems.skipping("recent_files", f"folder {path}"):
                for child in self._children(address, dentry, path, visited):
                    if child[1].inode:
                        yield child[2], child[1]
                    if child[1].first_child:
                        below.append(child)

    def _children(
        self, folder: int, dentry: Dentry, path: str, visited: set[int]
    ) -> Iterator[tuple[int, Dentry, str]]:
        """Address, dentry and path of what is in a folder; raises `ValueError` where its list has no end."""
        for address, child in self.paths.dentries.children(folder, dentry):
            if len(path) > LONGEST:
                raise ValueError(TOO_LONG)
            if address in visited:
                raise ValueError(f"the list of its entries runs into itself at {address:#x}")
            visited.add(address)
            yield address, child, self.mount_points.get(address) or f"{path}/{child.name}"

    def _outside(self, address: int, inode: Inode) -> Found:
        """A file of memory, one whose folder is not remembered or cannot be read, or a mere inode."""
        if not inode.alias:
            return Found(None, not inode.links, address, inode, self.superblock)
        path = self.paths.within(inode.alias, self.mount_points)
        return Found(path.text, path.deleted or not inode.links, address, inode, self.superblock)
