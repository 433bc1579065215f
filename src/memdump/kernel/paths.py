"""Paths of files, as ``d_path`` of ``fs/d_path.c`` gives them, but never without an end, nor all or nothing.

What cannot be read of a path is shown as `UNREADABLE` and noted, so that what is known of it is not lost.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import drgn

from memdump.kernel.dentries import Dentries, Dentry
from memdump.kernel.fields import Fields
from memdump.kernel.problems import SMEAR
from memdump.kernel.text import decode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memdump.kernel.problems import Problems

UNREADABLE = "[unreadable]"
"""Stands in a path for the folders that lie in memory which the image lacks."""

LONGEST = 4096
"""PATH_MAX of ``include/uapi/linux/limits.h``: the kernel itself gives no longer path, so none crosses more
folders and mounts either."""

TOO_LONG = f"a path has {LONGEST} characters at most"

FMODE_BACKING = 1 << 24 | 1 << 25
"""The flag of a backing file (``include/linux/fs.h``): the latter, and since Linux 6.14 (in 6.12, since some
stable release) the former.

The other one means something else; so what it leads to has to make sense.
"""

FMODE_NOACCOUNT = 1 << 29
"""The flag of a file that only the kernel holds, which every backing file is."""

NUMBERED = {"pipefs": "pipe", "sockfs": "socket"}
"""File systems whose files are called by what they are and by the number of their inode."""


class Path(NamedTuple):
    """Where a file is, or was."""

    text: str
    deleted: bool
    """The kernel appends " (deleted)" to such a path; here it never is part of the text."""


class Mount(NamedTuple):
    """What a path needs of a ``struct mount``: addresses."""

    root: int
    """The dentry that is shown at the mount point."""
    superblock: int
    parent: int
    """The mount below it; itself where there is none."""
    mount_point: int
    """The dentry of the mount below that it covers."""


class Paths:
    """The paths of a kernel; what was worked out once is remembered."""

    def __init__(self, program: drgn.Program, problems: Problems) -> None:
        self._program = program
        self._problems = problems
        self.dentries = Dentries(program)
        mount = program.type("struct mount")
        self._mount_fields = Fields(mount, "mnt.mnt_root", "mnt.mnt_sb", "mnt_parent", "mnt_mountpoint")
        self._vfsmount_in_mount: int = drgn.offsetof(mount, "mnt")
        self._dentries: dict[int, Dentry] = {}
        self._mounts: dict[int, Mount] = {}
        self._file_systems: dict[int, str] = {}
        self._folders: dict[tuple[int, int], str] = {}
        """Path of a dentry in a mount, without a slash at its end."""

    def of(self, path: drgn.Object) -> Path:
        """The path of a ``struct path``, such as ``file->f_path`` or ``fs->pwd``."""
        return self.find(path.mnt.value_(), path.dentry.value_())

    def of_mapped(self, file: drgn.Object) -> Path:
        """The path under which a ``struct file *`` that is mapped or executed was opened.

        On overlayfs, since Linux 6.8, such a file's own path is that in the layer below, and the one that was
        opened stands behind it (``struct backing_file``).
        """
        path = self.user_path(file)
        return self.of(file.f_path if path is None else path)

    def find(self, vfsmount: int, dentry: int) -> Path:
        """The path of a dentry that was reached through a ``struct vfsmount``; both are addresses."""
        mount = vfsmount - self._vfsmount_in_mount
        try:
            found = self.dentry(dentry)
            root = self.mount(mount).root if vfsmount else 0
            if found.parent == dentry and dentry != root:
                return self._rootless(found)
            deleted = not found.hashed and found.parent != dentry
        except SMEAR as error:
            self._problems.add("", f"dentry {dentry:#x}", f"no path: {error}")
            return Path(UNREADABLE, False)
        return Path(self._walk(mount, dentry) or "/", deleted)

    def mount_point(self, mount: int) -> str:
        """Where the ``struct mount`` at an address is mounted, seen from the root of its mount namespace."""
        try:
            return self._walk(mount, self.mount(mount).root) or "/"
        except SMEAR as error:
            self._problems.add("", f"mount {mount:#x}", f"no path: {error}")
            return UNREADABLE

    def within(self, dentry: int, mount_points: Mapping[int, str]) -> Path:
        """The path of a dentry that was reached without a mount, in a file system that is mounted as given.

        ``mount_points`` has paths of dentries by their address.  Below none of them, the path begins with the
        type of the file system, as ``[tmpfs]``.
        """
        names: list[str] = []
        path, length, deleted, here = UNREADABLE, 0, False, dentry
        try:
            found = self.dentry(here)
            deleted = not found.hashed
            while here not in mount_points:
                if found.parent == here:
                    if not names:
                        return self._rootless(found)
                    path = f"[{self.file_system(found.superblock)}]"
                    break
                names.append(found.name)
                length += 1 + len(found.name)
                if length > LONGEST:
                    raise ValueError(TOO_LONG)
                here, found = found.parent, self.dentry(found.parent)
            path = mount_points.get(here, path)
        except SMEAR as error:
            self._problems.add("", f"dentry {here:#x}", f"no whole path: {error}")
        return Path("/".join([path, *reversed(names)]) or "/", deleted)

    def dentry(self, address: int) -> Dentry:
        """The dentry at an address; raises what `Dentries.read` does."""
        found = self._dentries.get(address)
        if found is None:
            found = self._dentries[address] = self.dentries.read(address)
        return found

    def mount(self, address: int) -> Mount:
        """The ``struct mount`` at an address; raises `drgn.FaultError`."""
        found = self._mounts.get(address)
        if found is None:
            found = self._mounts[address] = Mount(*self._mount_fields.read(self._program, address))
        return found

    def file_system(self, superblock: int) -> str:
        """The name of the file system type of the superblock at an address; raises `drgn.FaultError`."""
        found = self._file_systems.get(superblock)
        if found is None:
            type_ = drgn.Object(self._program, "struct super_block *", superblock).s_type
            found = self._file_systems[superblock] = decode(type_.name.string_())
        return found

    def _walk(self, mount: int, dentry: int) -> str:
        """The path from the root of the mount namespace; empty for that root itself."""
        below: list[tuple[tuple[int, int], str]] = []
        path, length = UNREADABLE, 0
        try:
            for _ in range(LONGEST):
                known = self._folders.get((mount, dentry))
                if known is not None and len(known) + length <= LONGEST:
                    path = known
                    break
                at = self.mount(mount)
                if dentry == at.root:
                    if at.parent == mount:
                        path = ""
                        break
                    mount, dentry = at.parent, at.mount_point
                    continue
                name, parent, *_ = self.dentry(dentry)
                if parent == dentry:  # Not below the mount's root: the kernel, too, gives what it has then.
                    path = ""
                    break
                below.append(((mount, dentry), name))
                length += 1 + len(name)
                if length > LONGEST:
                    raise ValueError(TOO_LONG)
                dentry = parent
            else:
                raise ValueError(TOO_LONG)
        except SMEAR as error:
            self._problems.add("", f"dentry {dentry:#x}", f"no whole path: {error}")
        for key, name in reversed(below):
            path = self._folders[key] = f"{path}/{name}"
        return path

    def _rootless(self, dentry: Dentry) -> Path:
        """What has no place in a tree: each such file system has its own ``d_dname``."""
        kind = self.file_system(dentry.superblock)
        if kind in NUMBERED:
            return Path(f"{NUMBERED[kind]}:[{self._inode(dentry).i_ino.value_()}]", False)
        if kind == "anon_inodefs":
            return Path(f"anon_inode:{dentry.name}", False)
        if kind == "pidfs":  # Since Linux 6.9; it shows what stood there before.
            return Path("anon_inode:[pidfd]", False)
        if kind == "nsfs":
            inode = self._inode(dentry)
            namespace = drgn.Object(self._program, "struct ns_common *", inode.i_private.value_())
            return Path(f"{decode(namespace.ops.name.string_())}:[{inode.i_ino.value_()}]", False)
        # Files of memory (memfd, shared anonymous and System V memory): simple_dname calls them all deleted.
        return Path(f"/{dentry.name}", not dentry.hashed)

    def _inode(self, dentry: Dentry) -> drgn.Object:
        return drgn.Object(self._program, "struct inode *", dentry.inode)

    def user_path(self, file: drgn.Object) -> drgn.Object | None:
        """The path behind a backing file; None for any other file."""
        mode = file.f_mode.value_()
        if not (self._has_user_path and mode & FMODE_NOACCOUNT and mode & FMODE_BACKING):
            return None
        path = drgn.container_of(file, "struct backing_file", "file").user_path
        try:
            mount = self.mount(path.mnt.value_() - self._vfsmount_in_mount)
            same = mount.superblock == self.dentry(path.dentry.value_()).superblock
        except SMEAR:
            return None
        return path if same else None

    @cached_property
    def _has_user_path(self) -> bool:
        try:
            return bool(self._program.type("struct backing_file").has_member("user_path"))
        except LookupError:
            return False
