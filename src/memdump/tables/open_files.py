"""The ``open_files`` table."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import drgn

from memdump.kernel.fields import Fields
from memdump.kernel.problems import SMEAR
from memdump.tables import tasks
from memdump.tables.schema import DETAIL, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel
    from memdump.kernel.paths import Path

MOST_DESCRIPTORS = 1 << 22
"""No process has more: ``fs.nr_open`` allows 1,048,576 unless someone raised it."""
FMODE_READ, FMODE_WRITE, FMODE_PATH = 1, 2, 1 << 14
"""Bits of ``file.f_mode`` (``include/linux/fs.h``)."""
MINOR_BITS = 20
"""Of a ``dev_t`` inside the kernel (``include/linux/kdev_t.h``)."""
TYPES = {
    stat.S_IFREG: "regular",
    stat.S_IFDIR: "directory",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "pipe",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFLNK: "symlink",
}
ANONYMOUS = "anon_inode:"
MEMFD = "/memfd:"


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open file descriptor of a process."""

    pid: Annotated[int, "Process id"]
    process: Annotated[str, "Name of the process"]
    fd: Annotated[int, "Number of the descriptor"]
    path: Annotated[str | None, "As /proc/PID/fd shows it, without ' (deleted)': a path, socket:[INODE], ..."]
    type: Annotated[
        str | None,
        "regular, directory, socket, pipe, char, block, memfd, namespace, or what an anonymous inode is for: "
        "eventfd, eventpoll, ...",
    ]
    mode: Annotated[str, "How it may be used: r, w, rw, or path for O_PATH"]
    inode: Annotated[int | None, "Inode number"]
    device: Annotated[str | None, "Device of the file system that the inode is in, as MAJOR:MINOR", DETAIL]
    position: Annotated[int, "Offset of the next read or write, in bytes", DETAIL]
    deleted: Annotated[bool | None, "Whether its name was removed; true for what never had one, as memfd"]


@table(OpenFile)
def open_files(kernel: Kernel) -> Iterator[OpenFile]:
    """Yield the entries of the descriptor table that the leading thread of each process has."""
    files = _Files(kernel)
    for task in tasks.processes(kernel, "open_files"):
        place = f"process {task.pid} ({task.name})"
        for fd, file in descriptors(kernel, task, "open_files"):
            with kernel.problems.skipping("open_files", f"descriptor {fd} of {place}"):
                yield files.row(task, fd, file)


def descriptors(kernel: Kernel, task: tasks.Task, table: str) -> list[tuple[int, int]]:
    """The descriptors of a task with the address of the ``struct file`` of each; what faults is noted."""
    place = f"descriptors of process {task.pid} ({task.name})"
    return kernel.problems.reading(table, place, _descriptors, kernel.program, task) or []


def _descriptors(program: drgn.Program, task: tasks.Task) -> list[tuple[int, int]]:
    """``files_struct.fdt`` of ``include/linux/fdtable.h``."""
    files = task.alive.files
    if not files:
        return []
    fdt = files.fdt
    count, array = fdt.max_fds.value_(), fdt.fd.value_()
    if count > MOST_DESCRIPTORS:
        raise ValueError(f"torn: its table would have room for {count}")
    try:
        entries = memoryview(program.read(array, count * 8)).cast("Q").tolist()
    except drgn.FaultError:
        entries = list(_entries(program, array, count))
    return [(fd, file) for fd, file in enumerate(entries) if file]


def _entries(program: drgn.Program, array: int, count: int) -> Iterator[int]:
    """The table page by page, with nothing where it is not in the image; raises if that is everywhere."""
    found = False
    step = tasks.PAGE // 8
    for first in range(0, count, step):
        part = min(step, count - first)
        try:
            data = program.read(array + first * 8, part * 8)
        except drgn.FaultError:
            data = bytes(part * 8)
        else:
            found = True
        yield from struct.unpack(f"<{part}Q", data)
    if not found:
        raise ValueError(f"the table at {array:#x} is not in the image")


class _Files:
    """Reads what is told of a ``struct file``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._program = program = kernel.program
        file = program.type("struct file")
        self._file = Fields(file, "f_mode", "f_pos", "f_inode", "f_path.mnt", "f_path.dentry")
        self._inode = Fields(program.type("struct inode"), "i_mode", "i_ino", "i_sb")
        self._super_block = Fields(program.type("struct super_block"), "s_dev")

    def row(self, task: tasks.Task, fd: int, file: int) -> OpenFile:
        reading = self._kernel.problems.reading
        place = f"descriptor {fd} of process {task.pid} ({task.name})"
        mode, position, inode, mount, dentry = self._file.read(self._program, file)
        path: Path = self._kernel.paths.find(mount, dentry)
        found = reading("open_files", f"inode of {place}", self._inode.read, self._program, inode)
        device = found and reading("open_files", f"device of {place}", self._device, found[2])
        return OpenFile(
            pid=task.pid,
            process=task.name,
            fd=fd,
            path=path.text,
            type=self._type(found[0] if found else 0, path, dentry),
            mode=_mode(mode),
            inode=found[1] if found else None,
            device=device or None,
            position=position,
            deleted=path.deleted,
        )

    def _device(self, super_block: int) -> str:
        (device,) = self._super_block.read(self._program, super_block)
        return f"{device >> MINOR_BITS}:{device & (1 << MINOR_BITS) - 1}"

    def _type(self, mode: int, path: Path, dentry: int) -> str | None:
        if path.text.startswith(ANONYMOUS):
            return path.text.removeprefix(ANONYMOUS).strip("[]")
        if path.text.startswith(MEMFD) and self._has_no_folder(dentry):
            return "memfd"
        if not path.text.startswith("/") and stat.S_ISREG(mode):
            return "namespace"
        return TYPES.get(stat.S_IFMT(mode))

    def _has_no_folder(self, dentry: int) -> bool:
        try:
            return self._kernel.paths.dentry(dentry).parent == dentry
        except SMEAR:
            return False


def _mode(mode: int) -> str:
    if mode & FMODE_PATH:
        return "path"
    return "r" * bool(mode & FMODE_READ) + "w" * bool(mode & FMODE_WRITE)
