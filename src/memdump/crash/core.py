"""The core of a process: its memory map, its threads, the signal that ended it (gABI, ``core(5)``)."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from memdump.crash import notes as note
from memdump.errors import NotADump
from memdump.image import elf

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.crash.notes import MappedFile, ProcessInfo, SignalInfo, ThreadStatus
    from memdump.image.content import Content

I386 = 3
"""``e_machine`` of the one kind of 32-bit programs that is known here."""
READ, WRITE, EXECUTE = 4, 2, 1
"""``p_flags``."""
AT_ENTRY, AT_RANDOM, AT_VDSO = 9, 25, 33
"""Of the auxiliary vector: the program's entry, bytes on the main thread's stack, the kernel's library."""
HEAP_GAP = 1 << 30
"""The heap begins no farther behind the program (``arch_randomize_brk``)."""
ANONYMOUS, HEAP = "anonymous memory", "the heap"
MOST_THREADS = 1 << 16


@dataclass(frozen=True, slots=True)
class Region:
    """A mapping of the process."""

    start: int
    end: int
    flags: int
    offset: int
    """Where in the core its memory is."""
    saved: int
    """How many bytes of it are in the core, from the start on."""
    file: str = ""
    name: str = ""
    """What it is, in words."""

    @property
    def access(self) -> str:
        """As ``/proc/PID/maps`` writes it."""
        return "".join(
            letter if self.flags & flag else "-"
            for letter, flag in (("r", READ), ("w", WRITE), ("x", EXECUTE))
        )


class Core:
    """What a core says beside its memory."""

    def __init__(self, path: Path, content: Content) -> None:
        """Read it; raises `NotADump` where it is no core of a process of a kind that is known here."""
        self.path = path
        self.defects: list[str] = []
        self._content = content
        self.elf = _core_header(path, content)
        self.order = self.elf.order
        self.bits = self.elf.bits
        self.architecture = elf.ARCHITECTURES.get(self.elf.machine, f"machine {self.elf.machine}")
        headers = list(elf.program_headers(content, self.elf))
        if len(headers) < self.elf.program_count:
            self.defects.append(
                f"truncated: {len(headers)} of {self.elf.program_count} program headers are in the file"
            )
        self.threads: list[ThreadStatus] = []
        self.signal: SignalInfo | None = None
        self.process: ProcessInfo | None = None
        self.auxv: dict[int, int] = {}
        self.files: list[MappedFile] = []
        self._loads = [header for header in headers if header.type == elf.PT_LOAD and header.memsz]
        for header in headers:
            if header.type == elf.PT_NOTE:
                self._read_notes(header.offset, header.filesz)
        self.files.sort()
        if self.signal is None and self.threads and self.threads[0].signal:
            self.signal = note.SignalInfo(self.threads[0].signal, None)
        self._note_missing()

    @property
    def belongs_to_process(self) -> bool:
        """Whether it is of a process; the cores of machines lack what only processes have."""
        return bool(self.auxv or self.files or self.process or self.signal)

    def _read_notes(self, offset: int, size: int) -> None:
        for found in elf.notes(self._content, offset, size, self.order):
            if found.name not in (b"CORE", b"LINUX"):
                if found.name in (b"VMCOREINFO", b"QEMU"):
                    self.threads, self.process, self.auxv = [], None, {}
                    return
                continue
            data = self._content[found.offset : found.offset + found.size]
            self._read_note(found.type, data)

    def _read_note(self, kind: int, data: bytes) -> None:
        if kind == note.NT_PRSTATUS:
            status = note.parse_status(data, self.order, self.bits)
            if status and len(self.threads) < MOST_THREADS:
                self.threads.append(status)
        elif kind == note.NT_PRPSINFO:
            self.process = self.process or note.parse_process(data, self.order, self.bits)
        elif kind == note.NT_SIGINFO:
            # Each thread may have one (gdb writes them so); that of the first thread is the one.
            self.signal = self.signal or note.parse_signal(data, self.order, self.bits)
        elif kind == note.NT_AUXV:
            self.auxv = self.auxv or note.parse_auxv(data, self.order, self.bits)
        elif kind == note.NT_FILE:
            self.files += note.parse_files(data, self.order, self.bits)

    def _note_missing(self) -> None:
        size = len(self._content)
        missing = sum(
            max(0, min(load.filesz, load.offset + load.filesz - size)) for load in self._loads if load.filesz
        )
        if missing:
            self.defects.append(
                f"truncated: the last {missing} bytes of memory are not in the file (a limit on the size of"
                " cores, `ulimit -c`, or a full disk)"
            )

    @cached_property
    def regions(self) -> list[Region]:
        """The mappings by address; those of a file are cut where NT_FILE does."""
        found = []
        program_end = self._program_end()
        heap_seen = False
        for load in sorted(self._loads, key=lambda load: load.vaddr):
            start, end = load.vaddr, load.vaddr + load.memsz
            file = self._file_at(start)
            saved = max(0, min(load.filesz, load.memsz, len(self._content) - load.offset))
            name = file or self._anonymous(start, end)
            gap = start - program_end if program_end else -1
            if name == ANONYMOUS and load.flags & WRITE and 0 <= gap < HEAP_GAP and not heap_seen:
                heap_seen = bool(gap)  # what adjoins the program are its variables that begin as zeros
                name = HEAP if gap else "the data of the program"
            found.append(Region(start, end, load.flags, load.offset, saved, file, name))
        return found

    def region(self, address: int) -> Region | None:
        """The mapping that an address is in."""
        at = bisect_right(self.regions, address, key=lambda region: region.start) - 1
        return self.regions[at] if at >= 0 and address < self.regions[at].end else None

    def neighbours(self, address: int) -> tuple[Region | None, Region | None]:
        """The mappings below and above an address that is in none."""
        at = bisect_right(self.regions, address, key=lambda region: region.start)
        below = self.regions[at - 1] if at else None
        return below, self.regions[at] if at < len(self.regions) else None

    def _file_at(self, address: int) -> str:
        at = bisect_right(self.files, address, key=lambda file: file.start) - 1
        return self.files[at].path if at >= 0 and address < self.files[at].end else ""

    def _program_end(self) -> int:
        program = self._file_at(self.auxv.get(AT_ENTRY, 0))
        return max((file.end for file in self.files if file.path == program), default=0) if program else 0

    def _anonymous(self, start: int, end: int) -> str:
        if start <= self.auxv.get(AT_RANDOM, 0) < end:
            return "the stack of the main thread"
        if start <= self.auxv.get(AT_VDSO, 0) < end:
            return "the vDSO of the kernel"
        return ANONYMOUS


def _core_header(path: Path, content: Content) -> elf.Elf:
    if content[:4] != elf.MAGIC:
        raise NotADump(f"{path}: is no core; give the core of a process, or an image of a machine")
    header = elf.parse_header(path, content)
    if header.type != elf.ET_CORE:
        raise NotADump(f"{path}: is an ELF program or library, not a core; give the core that it left")
    if header.bits != 64 and header.machine != I386:
        name = elf.ARCHITECTURES.get(header.machine, f"machine {header.machine}")
        raise NotADump(
            f"{path}: is the core of a 32-bit process on {name}; of 32-bit ones memdump explains i386's only:"
            " use gdb"
        )
    return header
