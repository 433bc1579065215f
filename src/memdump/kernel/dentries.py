"""Reads dentries: the names that the kernel remembers of files and folders (``include/linux/dcache.h``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import drgn

from memdump.kernel.fields import Fields, first_member
from memdump.kernel.text import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_NAME = 255
"""NAME_MAX of ``include/uapi/linux/limits.h``; what the kernel itself makes up is shorter, too."""


class Dentry(NamedTuple):
    """A dentry; an address of zero means that there is none."""

    name: str
    parent: int
    """Address of the folder's dentry; of the dentry itself where it is the root of a tree, or in no tree."""
    inode: int
    """Address of the inode; a negative dentry has none, it remembers that there is no such file."""
    superblock: int
    hashed: bool
    """False for what can no longer be looked up: a removed file, or one that never had a place in a tree."""
    first_child: int
    next_sibling: int


class Dentries:
    """The dentries of a kernel, each read at once."""

    def __init__(self, program: drgn.Program) -> None:
        self._program = program
        dentry = program.type("struct dentry")
        # The list of children became an hlist in Linux 6.8: d_subdirs and d_child are d_children and d_sib.
        children = first_member(dentry, "d_children.first", "d_subdirs.next")
        sibling = first_member(dentry, "d_sib.next", "d_child.next")
        # A short name stands in the dentry itself: d_iname, since Linux 6.14 d_shortname.
        self._short_name = drgn.offsetof(dentry, first_member(dentry, "d_shortname", "d_iname"))
        self._children = drgn.offsetof(dentry, children)
        self._sibling = drgn.offsetof(dentry, sibling)
        self._fields = Fields(
            dentry,
            "d_name.name",
            "d_name.len",
            "d_parent",
            "d_inode",
            "d_sb",
            "d_hash.pprev",
            children,
            sibling,
        )

    def read(self, address: int) -> Dentry:
        """The dentry at ``address``; raises `drgn.FaultError`, and `ValueError` for what is none."""
        data = self._program.read(address, self._fields.size)
        name, length, parent, inode, superblock, hashed, child, sibling = self._fields.unpack(data)
        if length > LONGEST_NAME:
            raise ValueError(f"no dentry at {address:#x}: its name would have {length} bytes")
        if name == address + self._short_name:
            raw = data[self._short_name : self._short_name + length]
        else:
            raw = self._program.read(name, length)
        if child == address + self._children:  # an empty list_head
            child = 0
        return Dentry(
            decode(raw), parent, inode, superblock, hashed != 0, self._linked(child), self._linked(sibling)
        )

    def _linked(self, link: int) -> int:
        return link and link - self._sibling

    def children(self, address: int, folder: Dentry) -> Iterator[tuple[int, Dentry]]:
        """The dentries in a folder with their addresses, negative ones too; raises what `read` does.

        The caller bounds it: in torn memory the list may be endless.
        """
        # A list_head ends where it began, which taken for a sibling's link is this; an hlist ends with zero.
        end = address + self._children - self._sibling
        child = folder.first_child
        while child and child != end:
            found = self.read(child)
            yield child, found
            child = found.next_sibling
