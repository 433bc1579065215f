"""Which physical addresses are memory: the ``System RAM`` entries of ``/proc/iomem``.

The file is written by ``r_show`` of the kernel's ``kernel/resource.c``: a line per resource, indented by its
depth, with the first and the *last* address in hex.  Without CAP_SYS_ADMIN every address reads as zero.
"""

import re
from pathlib import Path
from typing import List, Sequence

from memdump.errors import MemdumpError, NotADump, NotPermitted
from memdump.machine import host
from memdump.machine.source import Range

PATH = "/proc/iomem"

_LINE = re.compile(r"^ *([0-9a-f]{1,16})-([0-9a-f]{1,16}) : (.*)$", re.ASCII | re.MULTILINE)
# Memory that a driver adds (virtio-mem, DAX) is named after it and stands inside the device's own entry.
_RAM = re.compile(r"System RAM( \(.*\))?")


def parse(text: str, page_size: int) -> List[Range]:
    """Give the ranges of system RAM, ascending and disjoint, each cut down to whole pages.

    The kernel uses whole pages only, so the ragged ends that firmware leaves hold nothing of it, and the
    kernel's own list of its memory (``walk_system_ram_range``) cuts them off in the same way.

    Raises `NotPermitted` where the addresses are hidden, `NotADump` where the text makes no sense, and
    `MemdumpError` where it names no memory.
    """
    spans = [
        (int(first, 16), int(last, 16)) for first, last, name in _LINE.findall(text) if _RAM.fullmatch(name)
    ]
    if spans and not any(last for _, last in spans):
        raise NotPermitted(f"{PATH} hides its addresses: run as root, or grant CAP_SYS_ADMIN")
    ranges: List[Range] = []
    for first, last in sorted(spans):
        if last < first:
            raise NotADump(f"{PATH}: a range of system RAM ends before it starts: {first:x}-{last:x}")
        start = -(-first // page_size) * page_size
        end = (last + 1) // page_size * page_size
        if ranges:
            start = max(start, ranges[-1].end)
        if start < end:
            ranges.append(Range(start, end - start))
    if not ranges:
        raise MemdumpError(f"{PATH} names no system RAM, so it is not known what there is to take")
    return ranges


def read(path: str = PATH, page_size: int = host.PAGE_SIZE) -> Sequence[Range]:
    """Read the ranges of this machine; raises as `parse` does."""
    try:
        text = Path(path).read_text("ascii", "replace")
    except OSError as error:
        raise NotPermitted(f"{path} cannot be read: {error.strerror}; run as root on the host") from None
    return parse(text, page_size)


def again(path: str, page_size: int, known: Sequence[Range]) -> Sequence[Range]:
    """Read the ranges once more; those that are ``known`` where that is not possible any more."""
    try:
        return read(path, page_size)
    except MemdumpError:
        return known


def named(path: str, name: str) -> List[Range]:
    """Give the ranges of another name, as they stand; none where the file tells nothing of them."""
    try:
        text = Path(path).read_text("ascii", "replace")
    except OSError:
        return []
    spans = [(int(first, 16), int(last, 16)) for first, last, found in _LINE.findall(text) if found == name]
    return [Range(first, last + 1 - first) for first, last in spans if first < last]
