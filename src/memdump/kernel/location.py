"""Where in physical memory the kernel lies, and where it is mapped.

Three places are looked at, from the cheapest to the dearest, and each is believed only if its page tables
really map a kernel:

1. the VMCOREINFO that the image's format carries;
2. the page directory of the real-mode trampoline.  Every x86-64 kernel keeps one below 1 MiB to wake
   processors with, and its last entry is that of the kernel's own page directory (``setup_real_mode`` in
   ``arch/x86/realmode/init.c``);
3. every VMCOREINFO page in memory: first at the beginning of each page, then anywhere.

So the time does not depend on the size of the image, unless all but the last have failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from memdump.image.base import MissingMemory
from memdump.kernel.vmcoreinfo import BEGINNING, LARGEST, VmcoreInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.image.base import Image

PAGE = 4096
LARGE_PAGE = 2 << 20
START_KERNEL_MAP = 0xFFFFFFFF80000000
"""``__START_KERNEL_map``: the kernel image is mapped in the 1 GiB from here."""
SCANNED = 1 << 20
"""Looked through at a time: what fits into a processor's cache, as each word is compared four times."""
LOW_MEMORY = 640 << 10
"""The trampoline lies in conventional memory, which ends here."""

LARGEST_KERNEL = 256 << 20
"""No kernel image is near that size; what claims to be is not read."""

PRESENT = 1
LARGE = 1 << 7
NO_EXECUTE = 1 << 63
FRAME = 0x000FFFFFFFFFF000


@dataclass(frozen=True, slots=True)
class Location:
    """A kernel image in physical memory."""

    virtual: int
    """Virtual address of ``_text``."""
    physical: int
    """Physical address of the same byte."""
    size: int
    """Bytes from ``_text`` to the end of the mapping, a multiple of 2 MiB."""
    text_size: int
    """Bytes from ``_text`` to where the mapping stops being executable: there the read-only data begin."""
    levels: int
    """Levels of the page tables: 4, or 5 with LA57."""
    found_by: str
    """How it was found, in words."""
    vmcoreinfo: VmcoreInfo | None = None
    """The VMCOREINFO that led here, where one did."""

    @property
    def phys_base(self) -> int:
        """What the kernel calls ``phys_base``: physical = virtual - ``START_KERNEL_MAP`` + phys_base."""
        return self.physical - self.virtual + START_KERNEL_MAP

    def translate(self, address: int) -> int:
        """The physical address of a virtual one inside the kernel image."""
        return address - START_KERNEL_MAP + self.phys_base

    def own(self, info: VmcoreInfo) -> VmcoreInfo | None:
        """The VMCOREINFO if it is this kernel's, and not one that an earlier boot left in memory."""
        return info if info and info.number("phys_base") == self.phys_base else None


def find_kernel(image: Image) -> Location | None:
    """Find the kernel of an x86-64 image; ``None`` where there is none."""
    return next(_candidates(image), None)


def _candidates(image: Image) -> Iterator[Location]:
    if image.vmcoreinfo:
        yield from _by_vmcoreinfo(
            image, VmcoreInfo(image.vmcoreinfo), "the VMCOREINFO that the image carries"
        )
    for address in range(0, LOW_MEMORY, PAGE):
        yield from _by_page_directory(image, address, "the page directory of the real-mode trampoline")
    for text in texts_at_page_starts(image):
        yield from _by_vmcoreinfo(image, VmcoreInfo(text), "a VMCOREINFO page")
    for text in _anywhere(image):
        yield from _by_vmcoreinfo(image, VmcoreInfo(text), "a VMCOREINFO text")


def _by_vmcoreinfo(image: Image, info: VmcoreInfo, found_by: str) -> Iterator[Location]:
    """The kernel that a VMCOREINFO speaks of: that of a stale one maps something else, if anything."""
    phys_base, directory = info.number("phys_base"), info.symbol("swapper_pg_dir")
    text = info.symbol("_stext")
    if not info or phys_base is None or directory is None or text is None:
        return
    for found in _by_page_directory(image, directory - START_KERNEL_MAP + phys_base, found_by, info):
        if found.phys_base == phys_base and 0 <= text - found.virtual < found.size:
            yield found


def _by_page_directory(
    image: Image, directory: int, found_by: str, info: VmcoreInfo | None = None
) -> Iterator[Location]:
    """The kernel that the page directory at physical address ``directory`` maps, with 4 or 5 levels."""
    table = _entry_of(image, directory, 511)
    for levels in (4, 5):
        if levels == 5 and table is not None:
            table = _entry_of(image, table, 511)
        middle = None if table is None else _entry_of(image, table, 510)
        if middle is not None and (mapped := _mapped_kernel(image, middle)):
            yield Location(*mapped, levels, found_by, info)


def _table(image: Image, address: int) -> memoryview | None:
    try:
        return memoryview(image.read(address, PAGE)).cast("Q")
    except (MissingMemory, ValueError, OverflowError):
        return None


def _entry_of(image: Image, table: int, index: int) -> int | None:
    """The physical address of the table below entry ``index``, if there is one."""
    entries = _table(image, table)
    if entries is None or not entries[index] & PRESENT or entries[index] & LARGE:
        return None
    return entries[index] & FRAME


def _mapped_kernel(image: Image, middle: int) -> tuple[int, int, int, int] | None:
    """Virtual and physical address, size and text size of the kernel that ``level2_kernel_pgt`` maps.

    The mapping must be of physically contiguous memory which the image holds.
    """
    entries = _table(image, middle)
    if entries is None:
        return None
    pages = {
        index: page
        for index, entry in enumerate(entries)
        if entry & PRESENT and (page := _large_page(image, entry))
    }
    if not pages:
        return None
    first, last = min(pages), max(pages)
    physical = pages[first][0]
    contiguous = all(page == physical + (index - first) * LARGE_PAGE for index, (page, _) in pages.items())
    if not 4 <= last - first < LARGEST_KERNEL // LARGE_PAGE or physical % LARGE_PAGE or not contiguous:
        return None
    if _table(image, physical) is None:
        return None
    not_text = next((index for index in sorted(pages) if not pages[index][1]), last + 1)
    return (
        START_KERNEL_MAP + first * LARGE_PAGE,
        physical,
        (last - first + 1) * LARGE_PAGE,
        (not_text - first) * LARGE_PAGE,
    )


def _large_page(image: Image, entry: int) -> tuple[int, bool] | None:
    """Physical address of the 2 MiB that an entry maps, and whether their beginning is executable."""
    if entry & LARGE:
        return entry & FRAME & -LARGE_PAGE, not entry & NO_EXECUTE
    pages = _table(image, entry & FRAME)
    for index, page in enumerate(pages or ()):
        if page & PRESENT:
            return (page & FRAME) - index * PAGE, not page & NO_EXECUTE
    return None


def texts_at_page_starts(image: Image) -> Iterator[bytes]:
    """VMCOREINFO texts that begin a page: where the running kernel keeps its own."""
    first = int.from_bytes(BEGINNING[:8], "little")
    for address, chunk in image.chunks():
        whole = len(chunk) & -8
        starts = chunk[:whole].cast("Q")[:: PAGE // 8].tolist() if whole else []
        for page, word in enumerate(starts):
            if word == first:
                yield _text_at(image, address + page * PAGE)


def _anywhere(image: Image) -> Iterator[bytes]:
    """Every VMCOREINFO text: the last resort, which reads all of the image."""
    for address, chunk in image.chunks(SCANNED):
        if not _may_hold_text(chunk):
            continue
        data = bytes(chunk)
        at = data.find(BEGINNING)
        while at >= 0:
            yield _text_at(image, address + at)
            at = data.find(BEGINNING, at + 1)


def _may_hold_text(chunk: memoryview) -> bool:
    """Whether the beginning of a VMCOREINFO text may be in a chunk: NumPy tells quicker than a search for it.

    Wherever the text begins, it covers a whole aligned word, which is one of four.
    """
    import numpy

    words = numpy.frombuffer(chunk[: len(chunk) & -4], dtype="<u4")
    return any((words == int.from_bytes(BEGINNING[at : at + 4], "little")).any() for at in range(4))


def _text_at(image: Image, address: int) -> bytes:
    for size in (LARGEST, PAGE - address % PAGE):
        try:
            return image.read(address, size)
        except MissingMemory:
            continue
    return b""
