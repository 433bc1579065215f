"""The ``system`` table: which machine this was, and which kernel."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the columns are read from the annotations
from typing import TYPE_CHECKING, Annotated, TypeVar

from drgn import offsetof

from memdump.kernel.clocks import read_clocks
from memdump.kernel.taint import letters
from memdump.kernel.text import decode, decode_name
from memdump.tables.schema import Address, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memdump.kernel.kernel import Kernel

T = TypeVar("T")
PAGE = 4096
UTS_FIELD = 65
"""Size of each field of ``struct new_utsname`` (``include/uapi/linux/utsname.h``)."""
UTS_FIELDS = ("sysname", "nodename", "release", "version", "machine", "domainname")
SYSNAME = b"Linux\0"
LONGEST_COMMAND_LINE = 65536
CPU_MODEL = 64
"""Size of ``cpuinfo_x86.x86_model_id``."""


@dataclass(frozen=True, slots=True)
class System:
    """The machine and its kernel: one row."""

    hostname: Annotated[str | None, "Name of the machine, outside of any container"]
    kernel_release: Annotated[str, "Release of the kernel, as uname -r tells it"]
    kernel_version: Annotated[str | None, "Number, options and time of its build, as uname -v tells them"]
    build_id: Annotated[str | None, "Build id of vmlinux in hex: names its debug symbols"]
    architecture: Annotated[str, "Architecture, as uname -m tells it"]
    boot_time: Annotated[datetime | None, "When the system was started"]
    image_time: Annotated[datetime | None, "When the memory was taken, by the clock of the system"]
    command_line: Annotated[str | None, "What the boot loader told the kernel"]
    cpus: Annotated[int | None, "Number of CPUs that are online"]
    cpu_model: Annotated[str | None, "What the CPU calls itself"]
    memory: Annotated[int | None, "Memory that the kernel can use, in bytes: MemTotal of /proc/meminfo"]
    paging_levels: Annotated[int, "Levels of the page tables: 4, or 5 with LA57"]
    kaslr_offset: Annotated[Address, "How far KASLR has moved the kernel in its virtual addresses"]
    taint: Annotated[
        str | None, "Why the kernel is tainted, in its letters: O module out of tree, W warning ..."
    ]


@table(System)
def system(kernel: Kernel) -> Iterator[System]:
    """Yield the one row; most of it needs no types, so that it can be told of a kernel without BTF."""
    facts = _Facts(kernel)
    names = facts.get("names of the system", "init_uts_ns", facts.names) or {}
    clocks = read_clocks(kernel)
    yield System(
        hostname=names.get("nodename"),
        kernel_release=kernel.release,
        kernel_version=names.get("version"),
        build_id=kernel.build_id,
        architecture=kernel.architecture,
        boot_time=clocks.boot_time,
        image_time=clocks.image_time,
        command_line=facts.get("command line", "saved_command_line", facts.command_line),
        cpus=facts.get("number of CPUs", "__num_online_cpus", kernel.program.read_u32),
        cpu_model=facts.get("model of the CPU", "boot_cpu_data", facts.cpu_model),
        memory=facts.get("size of the memory", "_totalram_pages", facts.memory),
        paging_levels=kernel.location.levels,
        kaslr_offset=kernel.kaslr_offset,
        taint=facts.get("taint", "tainted_mask", facts.taint),
    )


class _Facts:
    """Reads facts that stand behind a symbol."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._program = kernel.program

    def get(self, place: str, symbol: str, read: Callable[[int], T]) -> T | None:
        """What ``read`` gives of the address of the symbol; None, and noted, where that is not possible."""
        address = self._kernel.symbols.address_of(symbol)
        if address is None:
            self._kernel.problems.add("system", place, f"{symbol} is not among the symbols")
            return None
        return self._kernel.problems.reading("system", place, read, address)

    def names(self, address: int) -> dict[str, str]:
        """``init_uts_ns.name``; before 5.11 a counter stands before it."""
        data = self._program.read(address, UTS_FIELD * len(UTS_FIELDS) + 8)
        start = data.index(SYSNAME)
        fields = (data[start + UTS_FIELD * number :][:UTS_FIELD] for number in range(len(UTS_FIELDS)))
        return dict(zip(UTS_FIELDS, map(decode_name, fields), strict=True))

    def command_line(self, address: int) -> str:
        """What ``/proc/cmdline`` shows."""
        pointer = self._program.read_u64(address)
        return decode(self._program.read_c_string(pointer, max_size=LONGEST_COMMAND_LINE))

    def cpu_model(self, address: int) -> str:
        """What ``/proc/cpuinfo`` shows as "model name"."""
        offset = offsetof(self._program.type("struct cpuinfo_x86"), "x86_model_id")
        return decode_name(self._program.read(address + offset, CPU_MODEL)).strip()

    def memory(self, address: int) -> int:
        """A count of pages."""
        pages: int = self._program.read_u64(address)
        return pages * PAGE

    def taint(self, address: int) -> str:
        """What ``/proc/sys/kernel/tainted`` says in a number."""
        return letters(self._program.read_u64(address))
