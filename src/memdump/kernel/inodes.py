"""Reads inodes: what the kernel remembers of files and folders but for names (``include/linux/fs.h``)."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, NamedTuple

import drgn

from memdump.kernel.fields import Fields, first_member

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE, POINTER = 4096, 8
SECOND = 1_000_000_000
NANOSECONDS = 0x7FFFFFFF
"""The topmost bit of ``i_ctime_nsec`` is a flag since Linux 6.13 (``I_CTIME_QUERIED``)."""

TYPES = {
    stat.S_IFREG: "regular",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


def type_of(mode: int) -> str | None:
    """What a file is by its mode, in words; None where the mode has no type, as that of an eventfd."""
    return TYPES.get(stat.S_IFMT(mode))


class Inode(NamedTuple):
    """An inode; times are nanoseconds since 1970, an address of zero means that there is none."""

    mode: int
    uid: int
    gid: int
    superblock: int
    number: int
    links: int
    size: int
    accessed: int
    modified: int
    changed: int
    mapping: int
    """Address of the address space its pages are cached in: for a block device's node, that of the device."""
    own_pages: int
    """How many pages its own address space caches."""
    alias: int
    """Address of one of its dentries."""
    following: int
    """The link of the next inode in the superblock's list; see `Inodes.of_superblock`."""
    previous: int
    """The link of the inode before."""


class Inodes:
    """The inodes of a kernel, each read at once."""

    def __init__(self, program: drgn.Program) -> None:
        self._program = program
        inode, dentry = program.type("struct inode"), program.type("struct dentry")
        self._link: int = drgn.offsetof(inode, "i_sb_list")
        self._own_mapping: int = drgn.offsetof(inode, "i_data")
        self._pages: int = drgn.offsetof(program.type("struct address_space"), "nrpages")
        self._list: int = drgn.offsetof(program.type("struct super_block"), "s_inodes")
        self._alias: int = drgn.offsetof(dentry, first_member(dentry, "d_alias", "d_u.d_alias"))
        self._fields = Fields(
            inode,
            *("i_mode", "i_uid.val", "i_gid.val", "i_sb", "i_ino", "__i_nlink", "i_size"),
            *(_time(inode, which, part) for which in "amc" for part in ("sec", "nsec")),
            *("i_mapping", "i_data.nrpages", "i_dentry.first", "i_sb_list.next", "i_sb_list.prev"),
        )

    def read(self, address: int) -> Inode:
        """The inode at ``address``; raises `drgn.FaultError`."""
        values = self._fields.read(self._program, address)
        mode, uid, gid, superblock, number, links, size = values[:7]
        asec, ansec, msec, mnsec, csec, cnsec, mapping, pages, alias, following, previous = values[7:]
        return Inode(
            mode,
            uid,
            gid,
            superblock,
            number,
            links,
            size,
            asec * SECOND + ansec,
            msec * SECOND + mnsec,
            csec * SECOND + (cnsec & NANOSECONDS),
            mapping,
            pages,
            alias and alias - self._alias,
            following,
            previous,
        )

    def of_superblock(self, superblock: int, *, backwards: bool = False) -> Iterator[tuple[int, Inode]]:
        """The inodes of the superblock at an address, with their addresses; raises `drgn.FaultError`.

        The caller bounds it: in torn memory the list may be endless.  What is lost of it one way may be had
        the other way.
        """
        end = superblock + self._list
        link = self._program.read_u64(end + backwards * POINTER)
        while link != end:
            found = self.read(link - self._link)
            yield link - self._link, found
            link = found.previous if backwards else found.following

    def cached_bytes(self, address: int, inode: Inode) -> int:
        """How much of the file the page cache holds; raises `drgn.FaultError`."""
        if inode.mapping in (0, address + self._own_mapping):
            return inode.own_pages * PAGE
        pages: int = self._program.read_u64(inode.mapping + self._pages)
        return pages * PAGE


def _time(inode: drgn.Type, which: str, part: str) -> str:
    """The member with the seconds or nanoseconds of a time.

    ``i_atime``, a ``struct timespec64``, became ``__i_atime`` in Linux 6.7 (``i_ctime`` in 6.6), and was
    split into ``i_atime_sec`` and ``i_atime_nsec`` in 6.11.
    """
    name = f"i_{which}time"
    return first_member(inode, f"{name}_{part}", f"__{name}.tv_{part}", f"{name}.tv_{part}")
