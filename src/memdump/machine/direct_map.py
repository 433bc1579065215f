"""Where the kernel maps all physical memory one to one: the distance from physical to virtual addresses.

Nothing that is read at a guess is taken for memory: memory under a wrong address is worse than none.  A
distance counts only if a page of our own, whose physical address the kernel tells (``/proc/self/pagemap``),
is found through it, or else the kernel's banner, where ``/proc/iomem`` says that the kernel lies.
"""

import ctypes
import mmap
import os
import sys
from pathlib import Path
from typing import Callable, Iterable, Iterator, List, NamedTuple, Optional, Sequence

from memdump.errors import NotADump
from memdump.machine import host, iomem
from memdump.machine.source import Range

Read = Callable[[int, int], Optional[bytes]]
"""Gives so many bytes (second argument) at a virtual address, None where they cannot be read."""

_PAGE_64K = 64 << 10


def grain(page_size: int) -> int:
    """Give the steps in which the direct map is placed, at random or where memory begins.

    They are of 1 GiB (x86-64: ``arch/x86/mm/kaslr.c``, arm64: ``ARM64_MEMSTART_ALIGN``), but with pages of 64
    KiB, which arm64 may have, of 512 MiB.  Some kernels place it rounder still.
    """
    return 1 << 29 if page_size == _PAGE_64K else 1 << 30


GRAIN = grain(host.PAGE_SIZE)
"""Those of this machine."""

_PIECE = 1 << 20


class DirectMap(NamedTuple):
    """The direct map, and how it is known."""

    distance: int
    """Virtual address less physical address."""
    evidence: str


class Places(NamedTuple):
    """The files that tell."""

    iomem: str = iomem.PATH
    kallsyms: str = "/proc/kallsyms"
    banner: str = "/proc/version"
    pagemap: str = "/proc/self/pagemap"


HERE = Places()
"""Those of this machine."""


def find(read: Read, task: int, ram: Sequence[Range], places: Places = HERE) -> DirectMap:
    """Find the direct map; ``task`` is the address of the running task, which lies in it.

    Raises `NotADump` where no distance can be proved.
    """
    proof = Proof(read, places)
    guesses = (
        ("the address of the running task", near(task, ram)),
        ("page_offset_base of kallsyms", named(read, places.kallsyms)),
    )
    for guess, distances in guesses:
        found = proof.choose(distances)
        if found is not None:
            return DirectMap(found, f"{guess}, proved by {' and '.join(proof.by(found))}")
    raise NotADump("the kernel's direct map cannot be made sure of, so no address can be trusted")


def near(task: int, ram: Sequence[Range]) -> Iterator[int]:
    """Give the distances, ascending, at which the address of a task lies in system RAM.

    To try them so touches nothing above the direct map, where devices are mapped; below it there is nothing.
    """
    lowest = max(task - ram[-1].end, 0) // GRAIN * GRAIN
    for distance in range(lowest, task - ram[0].start + 1, GRAIN):
        if any(found.start <= task - distance < found.end for found in ram):
            yield distance


def named(read: Read, kallsyms: str) -> Iterator[int]:
    """Give what the kernel keeps as the base of its direct map (x86-64), if it tells where it keeps that."""
    address = _symbol(kallsyms, "page_offset_base")
    kept = read(address, 8) if address else None
    if kept:
        yield int.from_bytes(kept, sys.byteorder)


def _symbol(kallsyms: str, name: str) -> int:
    """Give the address of a symbol; 0 where it is missing (CONFIG_KALLSYMS_ALL) or hidden (kptr_restrict)."""
    try:
        with Path(kallsyms).open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                words = line.split()
                if words[2:] == [name]:
                    return int(words[0], 16)
    except (OSError, ValueError):
        pass
    return 0


class Proof:
    """What shows that a distance is right: a page of our own, and the kernel's banner."""

    def __init__(self, read: Read, places: Places) -> None:
        self._read = read
        self._pagemap = places.pagemap
        self._kernel = _kernel(places.iomem)
        self._banner = _banner(places.banner)
        self._page = mmap.mmap(-1, host.PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._mark = os.urandom(32)
        self._page[: len(self._mark)] = self._mark

    def choose(self, distances: Iterable[int]) -> Optional[int]:
        """Give the distance that is right, if one is.

        Our own page is found in one place only.  The banner is text, of which memory may hold copies, so
        without our page it must be found at one distance and no other.
        """
        if self._frame():
            return next((distance for distance in distances if self._shows_page(distance)), None)
        found = [distance for distance in distances if self._shows_banner(distance)]
        return found[0] if len(found) == 1 else None

    def by(self, distance: int) -> List[str]:
        """Name what proves a distance."""
        proofs = (
            ("a page of our own at the address that pagemap gives", self._shows_page),
            ("the kernel's banner at the addresses that iomem gives", self._shows_banner),
        )
        return [words for words, holds in proofs if holds(distance)]

    def _shows_page(self, distance: int) -> bool:
        frame, before = self._frame(), None
        while frame and frame != before:  # the kernel may have moved the page in between
            if self._read(distance + frame * host.PAGE_SIZE, len(self._mark)) == self._mark:
                return True
            frame, before = self._frame(), frame
        return False

    def _frame(self) -> int:
        """Give the page frame number of our page; 0 where the kernel does not tell.

        Each page has 8 bytes (kernel, ``Documentation/admin-guide/mm/pagemap.rst``): bit 63 says that it is
        in memory, the lowest 55 are the number, or zero without CAP_SYS_ADMIN.
        """
        page = ctypes.addressof(ctypes.c_char.from_buffer(self._page)) // host.PAGE_SIZE
        try:
            file = os.open(self._pagemap, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            entry = int.from_bytes(os.pread(file, 8, page * 8), sys.byteorder)
        except OSError:
            return 0
        finally:
            os.close(file)
        return entry & (1 << 55) - 1 if entry >> 63 else 0

    def _shows_banner(self, distance: int) -> bool:
        if not self._banner:
            return False
        tail = b""
        for address in range(self._kernel.start, self._kernel.end, _PIECE):
            piece = self._read(distance + address, min(_PIECE, self._kernel.end - address)) or b""
            if self._banner in tail + piece:
                return True
            tail = piece[-len(self._banner) :]
        return False


def _kernel(path: str) -> Range:
    """Give where the kernel's constants lie; where they have no entry of their own they follow its code."""
    for name in ("Kernel rodata", "Kernel code"):
        for found in iomem.named(path, name):
            return found
    return Range(0, 0)


def _banner(path: str) -> bytes:
    """Give ``linux_banner`` (kernel, ``init/version-timestamp.c``), which ends in a line break and a zero.

    The copies of it that logs hold do not.
    """
    try:
        text = Path(path).read_bytes()
    except OSError:
        return b""
    return text + b"\0" if text.startswith(b"Linux version ") else b""
