"""The ``memory_maps`` table."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

import drgn

from memdump.kernel.fields import Fields
from memdump.kernel.mapletree import MapleTrees
from memdump.kernel.problems import LONGEST_WALK, SMEAR
from memdump.kernel.resident import PAGE_SHIFT, Resident
from memdump.kernel.text import decode, string_at
from memdump.tables import tasks
from memdump.tables.schema import DETAIL, Address, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel

TABLE = "memory_maps"
VM_READ, VM_WRITE, VM_EXEC, VM_MAYSHARE = 1, 2, 4, 0x80
"""Bits of ``vm_area_struct.vm_flags`` (``include/linux/mm.h``)."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping of a process, as /proc/PID/maps has it but for the vsyscall page, which is the kernel's."""

    pid: Annotated[int, "Process id"]
    process: Annotated[str, "Name of the process"]
    start: Annotated[Address, "First address"]
    end: Annotated[Address, "First address behind it"]
    permissions: Annotated[str, "r, w, x, and p for private or s for shared"]
    offset: Annotated[Address, "Where it begins in the file, in bytes; 0 if there is none", DETAIL]
    path: Annotated[
        str | None,
        "File, without ' (deleted)'; or [heap], [stack], [vdso], ...; null for other anonymous memory",
    ]
    inode: Annotated[int, "Inode number of the file; 0 if there is none", DETAIL]
    resident_bytes: Annotated[int | None, "Bytes of it that are in memory and mapped, as Rss of smaps"]
    deleted: Annotated[bool, "Whether the file was removed; true for what never had a name, as memfd", DETAIL]


class _Area(NamedTuple):
    """What is used of a ``struct vm_area_struct``: numbers and addresses."""

    start: int
    end: int
    flags: int
    page_offset: int
    file: int
    operations: int
    private_data: int
    anonymous_name: int


class _Space(NamedTuple):
    """What is used of a ``struct mm_struct``."""

    directory: int
    start_brk: int
    brk: int
    start_stack: int
    areas: int
    """The root of their maple tree, or the first of their list."""


class _File(NamedTuple):
    path: str
    deleted: bool
    inode: int


@table(Mapping)
def memory_maps(kernel: Kernel) -> Iterator[Mapping]:
    """Yield the mappings of each process, in ascending order."""
    reader = _Reader(kernel)
    for task in tasks.processes(kernel, TABLE):
        if task.mm is not None:
            with kernel.problems.skipping(TABLE, f"process {task.pid} ({task.name})"):
                yield from reader.rows(task, task.mm.value_())


class _Reader:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._program = program = kernel.program
        area, space = program.type("struct vm_area_struct"), program.type("struct mm_struct")
        self._trees: MapleTrees | None = None
        areas = "mmap"
        if space.has_member("mm_mt"):  # The list and the tree of mappings became a maple tree in Linux 6.1.
            self._trees = MapleTrees(program, kernel.problems)
            areas = "mm_mt.ma_root"
        names = ["vm_start", "vm_end", "vm_flags", "vm_pgoff", "vm_file", "vm_ops", "vm_private_data"]
        # With CONFIG_ANON_VMA_NAME, since Linux 5.17; before 6.2 only what has no file can have a name.
        self._has_names = area.has_member("anon_name")
        self._files_have_names = self._has_names and drgn.offsetof(area, "anon_name") != drgn.offsetof(
            area, "shared"
        )
        self._area = Fields(area, *names, *(["anon_name"] if self._has_names else []))
        self._next = None if self._trees else Fields(area, "vm_next")
        self._space = Fields(space, "pgd", "start_brk", "brk", "start_stack", areas)
        self._special = kernel.symbols.address_of("special_mapping_name")
        self._name_of_operations = Fields(program.type("struct vm_operations_struct"), "name")
        self._special_mapping = Fields(program.type("struct vm_special_mapping"), "name")
        self._file_pointer = program.pointer_type(program.type("struct file"))
        self._huge_zero_page = _huge_zero_page(kernel)
        self._files: dict[int, _File] = {}
        self._operations: dict[int, int] = {}

    def rows(self, task: tasks.Task, mm: int) -> Iterator[Mapping]:
        space = _Space(*self._space.read(self._program, mm))
        resident = Resident(self._kernel, space.directory - self._kernel.direct_map, self._huge_zero_page)
        place = f"process {task.pid} ({task.name})"
        for address in self._areas(space, place):
            with self._kernel.problems.skipping(TABLE, f"vm_area_struct {address:#x} of {place}"):
                yield self._row(task, space, resident, self._read(address), place)

    def _areas(self, space: _Space, place: str) -> Iterator[int]:
        if self._trees:
            return self._trees.entries(space.areas, TABLE)
        return self._kernel.problems.walk(TABLE, f"mappings of {place}", self._list(space.areas))

    def _list(self, address: int) -> Iterator[int]:
        assert self._next is not None
        below = -1
        for _ in range(LONGEST_WALK):
            if not address:
                return
            start, following = self._start_and_next(address)
            if start <= below:
                raise ValueError(f"torn: the mapping at {address:#x} is not above the one before it")
            yield address
            below, address = start, following

    def _start_and_next(self, address: int) -> tuple[int, int]:
        assert self._next is not None
        (following,) = self._next.read(self._program, address)
        return self._read(address).start, following

    def _read(self, address: int) -> _Area:
        values = self._area.read(self._program, address)
        return _Area._make(values if self._has_names else (*values, 0))

    def _row(self, task: tasks.Task, space: _Space, resident: Resident, area: _Area, place: str) -> Mapping:
        size = resident.count(area.start, area.end)
        if resident.error:
            where = f"page tables of {place}, {area.start:#x}-{area.end:#x}"
            self._kernel.problems.add(TABLE, where, resident.error)
        file = self._file(area.file) if area.file else None
        return Mapping(
            pid=task.pid,
            process=task.name,
            start=area.start,
            end=area.end,
            permissions=_permissions(area.flags),
            offset=area.page_offset << PAGE_SHIFT if file else 0,
            path=self._name(space, area, file),
            inode=file.inode if file else 0,
            resident_bytes=None if resident.error else size,
            deleted=file.deleted if file else False,
        )

    def _file(self, address: int) -> _File:
        found = self._files.get(address)
        if found is None:
            file = drgn.Object(self._program, self._file_pointer, address)
            opened = self._kernel.paths.user_path(file)
            inode = file.f_inode if opened is None else opened.dentry.d_inode
            path = self._kernel.paths.of_mapped(file)
            found = self._files[address] = _File(path.text, path.deleted, inode.i_ino.value_())
        return found

    def _name(self, space: _Space, area: _Area, file: _File | None) -> str | None:
        """As ``show_map_vma`` of ``fs/proc/task_mmu.c`` finds it."""
        name = None
        if area.anonymous_name and (self._files_have_names or not area.file):
            name = self._given_name(area.anonymous_name)
        if file:
            return f"[anon_shmem:{name}]" if name else file.path
        if area.operations and self._namer(area.operations) == self._special:
            return self._special_name(area.private_data)
        if area.start < space.brk and area.end > space.start_brk:
            return "[heap]"
        if area.start <= space.start_stack <= area.end:
            return "[stack]"
        return f"[anon:{name}]" if name else None

    def _namer(self, operations: int) -> int:
        """The function that names mappings with these ``vm_operations_struct``."""
        found = self._operations.get(operations)
        if found is None:
            (found,) = self._name_of_operations.read(self._program, operations)
            self._operations[operations] = found
        return found

    def _special_name(self, mapping: int) -> str | None:
        """What the kernel maps into every process: [vdso], [vvar], [uprobes]."""
        (name,) = self._special_mapping.read(self._program, mapping)
        return decode(string_at(self._program, name)) if name else None

    def _given_name(self, address: int) -> str:
        """What the process itself called it (PR_SET_VMA_ANON_NAME of ``prctl(2)``)."""
        offset: int = drgn.offsetof(self._program.type("struct anon_vma_name"), "name")
        return decode(string_at(self._program, address + offset))


def _permissions(flags: int) -> str:
    return (
        ("r" if flags & VM_READ else "-")
        + ("w" if flags & VM_WRITE else "-")
        + ("x" if flags & VM_EXEC else "-")
        + ("s" if flags & VM_MAYSHARE else "p")
    )


def _huge_zero_page(kernel: Kernel) -> int | None:
    """The physical address of the huge page of zeros that processes share."""
    address = kernel.symbols.address_of("huge_zero_pfn")
    if address is None:
        return None
    try:
        (number,) = struct.unpack("<Q", kernel.program.read(address, 8))
    except SMEAR:
        return None
    return int(number) << PAGE_SHIFT
