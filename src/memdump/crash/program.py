"""A core as a drgn program: memory, modules with their symbols, threads.

The kernel does not write what a mapping has unchanged from its file: code and constants.  They are read from
the file, where it is the same one by its build id.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import drgn

from memdump.crash import modules
from memdump.crash.core import WRITE
from memdump.errors import MemdumpError, NotADump
from memdump.image.content import open_content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memdump.crash.core import Core, Region
    from memdump.crash.modules import CrashModule
    from memdump.image.content import Content

LONGEST_TEXT = 4096
SEARCHED = 256 << 20
"""Bytes of memory in which something is looked for, at most."""
STEP = 16 << 20
FAULTS = (
    drgn.FaultError,
    drgn.ObjectAbsentError,
    LookupError,
    ValueError,
    TypeError,
    OverflowError,
    NotImplementedError,
    OSError,
)
"""What reading a hostile process raises, or one of an architecture that drgn does not know well."""


class CrashProgram:
    """The process, as far as the core and the files that are here show it."""

    def __init__(self, core: Core, file: Path, root: Path | None = None) -> None:
        """Open it; raises `NotADump` where drgn cannot make anything of the core."""
        logging.getLogger("drgn").setLevel(logging.ERROR)  # what is missing is said in our own words
        self.core = core
        self.drgn = drgn.Program()
        try:
            self.drgn.set_core_dump(str(file))
            self.modules = modules.load(self.drgn, root)
        except MemdumpError:
            raise
        except Exception as error:
            why = core.defects[0] if core.defects else f"cannot be opened as a core: {error}"
            raise NotADump(f"{core.path}: {why}") from None
        self._files: list[Content] = []
        self._overlay()

    def _overlay(self) -> None:
        """Let what the core lacks of the modules be read from their files."""
        opened: dict[str, Content] = {}
        for start, end, offset in self._gaps():
            module = self.module_at(start)
            file = module.file if module else ""
            if not file.startswith("/"):
                continue
            try:
                if file not in opened:
                    opened[file] = open_content(Path(file))
            except MemdumpError:
                continue
            size = min(end - start, len(opened[file]) - offset)
            if size > 0:
                self.drgn.add_memory_segment(start, size, _reader(opened[file], offset))
        self._files = list(opened.values())

    def _gaps(self) -> Iterator[tuple[int, int, int]]:
        """Parts of mapped files that are not in the core: start, end, offset in the file."""
        for region in self.core.regions:
            start = region.start + region.saved
            if not region.file or region.flags & WRITE or start >= region.end:
                continue
            for file in self.core.files:
                low, high = max(start, file.start), min(region.end, file.end)
                if low < high:
                    yield low, high, file.offset + low - file.start

    def read(self, address: int, size: int) -> bytes | None:
        """Memory, or None where it cannot be read whole."""
        try:
            return bytes(self.drgn.read(address, size))
        except FAULTS:
            return None

    def word(self, address: int) -> int | None:
        """A pointer in memory."""
        data = self.read(address, self.core.bits // 8)
        return int.from_bytes(data, "little" if self.core.order == "<" else "big") if data else None

    def text(self, address: int, most: int = LONGEST_TEXT) -> str | None:
        """The text that ends with a zero byte; cut at ``most`` bytes, None where it cannot be read."""
        found = b""
        while len(found) < most:
            # To the end of the page: the next one may not be there.
            size = min(most - len(found), 256, 4096 - (address + len(found)) % 4096)
            data = self.read(address + len(found), size)
            if data is None:
                return None
            text, end, _ = data.partition(b"\0")
            found += text
            if end:
                break
        return found.decode(errors="surrogateescape")

    def module_at(self, address: int) -> CrashModule | None:
        """The module that an address is in."""
        return next((found for found in self.modules if found.start <= address < found.end), None)

    def symbol(self, name: str) -> int | None:
        """The address of a symbol."""
        try:
            return int(self.drgn.symbol(name).address)
        except FAULTS:
            return None

    def symbol_at(self, address: int) -> str:
        """The symbol that an address is in; empty where there is none."""
        try:
            return str(self.drgn.symbol(address).name)
        except FAULTS:
            return ""

    def function_at(self, address: int) -> int | None:
        """Where the function begins that an address is in; None where that is not known."""
        try:
            return int(self.drgn.symbol(address).address)
        except FAULTS:
            return None

    def close(self) -> None:
        """Close the files."""
        for content in self._files:
            content.close()


def _reader(content: Content, offset: int) -> Callable[[int, int, int, bool], bytes]:
    def read(address: int, size: int, within: int, _physical: bool) -> bytes:
        data = content[offset + within : offset + within + size]
        if len(data) != size:
            raise drgn.FaultError("the file ends", address)
        return data

    return read


def pieces(program: CrashProgram, regions: Iterable[Region], longest: int) -> Iterator[tuple[int, bytes]]:
    """The memory of regions in pieces, each with its address; nothing of ``longest`` bytes is cut everywhere.

    For that each piece ends with the first bytes of the next one.
    """
    left = SEARCHED
    for region in regions:
        end = region.start + region.saved
        for start in range(region.start, end, STEP):
            size = min(STEP + longest - 1, end - start)
            left -= size
            if left < 0:
                return
            yield start, program.read(start, size) or b""
