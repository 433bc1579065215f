"""What the ELF headers of ``/proc/kcore`` say: where each part of kernel memory stands in the file.

The file is an ELF core (``fs/proc/kcore.c``).  A ``PT_LOAD`` header gives a virtual address, and since Linux
4.11 the physical one too: of RAM in the direct map and of the kernel image; it is all ones for the rest
(vmalloc, modules, vmemmap).  Before that it is 0 throughout.  Since 4.19 a note carries the VMCOREINFO text.
"""

import struct
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from memdump.errors import NotADump
from memdump.machine.source import Range

Read = Callable[[int, int], bytes]
"""Gives up to so many bytes (second argument) at an offset of the file (first argument)."""

FRONT = 64
"""Bytes of the ELF header."""
_PT_LOAD, _PT_NOTE = 1, 4
_ET_CORE = 4
_LONGEST_NOTES = 1 << 20
_NO_ADDRESS = (1 << 64) - 1
_LAST_OFFSET = (1 << 63) - 1


class Segment(NamedTuple):
    """A part of kernel memory: its place in the file, its addresses and its size, in bytes."""

    offset: int
    virtual: int
    physical: Optional[int]
    """None where the headers do not give it."""
    size: int

    @property
    def distance(self) -> int:
        """How far the virtual address is from the physical one: the same all over the direct map."""
        return self.virtual - (self.physical or 0)


class Headers(NamedTuple):
    """The headers of a kcore."""

    segments: Sequence[Segment]
    vmcoreinfo: Optional[str]


def parse(read: Read) -> Headers:
    """Read the headers; raises `NotADump` where they are not those of a 64-bit kernel's kcore."""
    start = read(0, FRONT)
    if start[:4] != b"\x7fELF":
        raise NotADump("not an ELF file: in a container it is often masked; acquire on the host itself")
    if len(start) < FRONT or start[4] != 2 or start[5] not in (1, 2):
        raise NotADump("not the kcore of a 64-bit kernel, the only kind that memdump acquires")
    order = "<" if start[5] == 1 else ">"
    kind, table, entry, count = struct.unpack_from(order + "16xH14xQ14xHH", start)
    if kind != _ET_CORE or entry != 56 or table > _LAST_OFFSET:
        raise NotADump("its ELF header is not that of a core file")
    entries = read(table, entry * count)
    if len(entries) < entry * count:
        raise NotADump("its program headers are cut off")
    programs = list(struct.iter_unpack(order + "IIQQQQQQ", entries))
    return Headers(_segments(programs), _vmcoreinfo(read, order, programs))


def _segments(programs: Sequence[Sequence[int]]) -> List[Segment]:
    loads = [program for program in programs if program[0] == _PT_LOAD]
    has_physical = any(program[4] for program in loads)
    segments = []
    for _, _, offset, virtual, physical, size, _, _ in loads:
        known = has_physical and physical != _NO_ADDRESS
        if offset + size > _LAST_OFFSET + 1 or (known and physical + size > _NO_ADDRESS):
            raise NotADump(f"a program header of it reaches beyond the address space (at {virtual:#x})")
        segments.append(Segment(offset, virtual, physical if known else None, size))
    return segments


def _vmcoreinfo(read: Read, order: str, programs: Sequence[Sequence[int]]) -> Optional[str]:
    for kind, _, offset, _, _, size, _, _ in programs:
        if kind == _PT_NOTE and offset <= _LAST_OFFSET:
            found = vmcoreinfo(read(offset, min(size, _LONGEST_NOTES)), order)
            if found is not None:
                return found
    return None


def vmcoreinfo(notes: bytes, order: str) -> Optional[str]:
    """Give the VMCOREINFO text among ELF notes, if it is there; ``order`` of bytes as `struct` spells it."""
    for name, text in _notes(notes, order):
        if name == b"VMCOREINFO":
            return text.rstrip(b"\0").decode("utf-8", "backslashreplace")
    return None


def _notes(data: bytes, order: str) -> "Iterator[tuple[bytes, bytes]]":
    """Yield name and content of each ELF note; both are padded to 4 bytes."""
    position = 0
    while position + 12 <= len(data):
        name_size, size, _ = struct.unpack_from(order + "III", data, position)
        position += 12
        content = position + (name_size + 3 & ~3)
        yield data[position : position + name_size].rstrip(b"\0"), data[content : content + size]
        position = content + (size + 3 & ~3)


def direct_map(segments: Sequence[Segment], ram: Sequence[Range]) -> List[Segment]:
    """Choose the segments through which physical memory is read, ascending by physical address.

    Segments that map memory at one distance belong together: the direct map is the group that reaches most of
    the system RAM, and a group beside it (the kernel image, mapped a second time) must reach nothing that the
    direct map does not.  Headers without physical addresses are matched with the ranges of RAM one by one.

    Raises `NotADump` where the headers contradict each other or the ranges of system RAM: memory under a
    wrong address is worse than none.
    """
    if all(segment.physical is None for segment in segments):
        return _matched(segments, ram)
    groups: Dict[int, List[Segment]] = {}
    for segment in segments:
        if segment.physical is not None:
            groups.setdefault(segment.distance, []).append(segment)
    chosen = max(groups.values(), key=lambda group: _reached(group, ram))
    everything = [segment for group in groups.values() for segment in group]
    if not _reached(chosen, ram):
        raise NotADump("none of its physical addresses lies in the system RAM that /proc/iomem names")
    if _reached(everything, ram) > _reached(chosen, ram):
        raise NotADump("its headers disagree about where the direct map is, so no address can be trusted")
    return sorted(chosen, key=lambda segment: segment.physical or 0)


def _reached(segments: Sequence[Segment], ram: Sequence[Range]) -> int:
    """Count the bytes of system RAM that lie in at least one of the segments."""
    reached = 0
    spans = sorted((segment.physical or 0, segment.size) for segment in segments)
    for found in ram:
        behind = found.start
        for start, size in spans:
            first, last = max(start, behind), min(start + size, found.end)
            if first < last:
                reached += last - first
                behind = last
    return reached


def _matched(segments: Sequence[Segment], ram: Sequence[Range]) -> List[Segment]:
    """Find the one distance at which every range of system RAM is exactly a segment (Linux before 4.11)."""
    by_place = {(segment.virtual, segment.size): segment for segment in segments}
    first = ram[0]
    fitting = [
        distance
        for distance in {virtual - first.start for virtual, size in by_place if size == first.size}
        if all((found.start + distance, found.size) in by_place for found in ram)
    ]
    if len(fitting) != 1:
        raise NotADump("its headers do not tell where the direct map is (Linux before 4.11)")
    return [by_place[found.start + fitting[0], found.size]._replace(physical=found.start) for found in ram]
