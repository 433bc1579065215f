"""What sources read inside a guest, and how that is put beside what QEMU saw."""

from __future__ import annotations

import array
import json
import mmap
import re
import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from memdump.machine import manifest
from tests.conftest import made
from tests.lab import guests

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from memdump.machine.manifest import Manifest
    from memdump.machine.source import Range
    from tests.lab.guests import Made

PAGE = 4096
EMPTY = zlib.crc32(bytes(PAGE))
SAME = 0.995
"""Of the pages that hold something and were the same before and after, the least share that a source must
give just so (99.7 to 99.8 % were measured).  In the others the kernel takes locks, or counts to and fro."""
EMPTY_SAME = 0.85
"""The same of empty pages (93 to 99.9 %): what reads takes some, which are empty again when it has ended."""


class Shares(NamedTuple):
    """What `check_beside_qemu` asks for at least; at None it does not look."""

    same: float = SAME
    empty_same: float | None = EMPTY_SAME


FILLED = Shares(0.9, None)
"""For programs whose image stays in memory while they write it: the kernel notes that of each page it takes
(96.7 to 99.8 % were measured).  It takes most of the empty ones, and fills them with much that is empty, so
that of those nothing can be said."""


class Memory(NamedTuple):
    """A mapped file and its parts: physical address, place in the file, size."""

    data: mmap.mmap
    parts: list[tuple[int, int, int]]

    def at(self, address: int, size: int) -> bytes:
        found = b""
        for start, offset, length in self.parts:
            if start <= address < start + length:
                taken = min(size, start + length - address)
                place = offset + address - start
                found += self.data[place : place + taken]
                address, size = address + taken, size - taken
                if not size:
                    return found
        raise LookupError(hex(address))


def mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def programs(data: mmap.mmap) -> Iterator[tuple[int, int, int, int]]:
    (table,), (count,) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<H", data, 56)
    for index in range(count):
        kind, _, offset, _, physical, size, _, _ = struct.unpack_from("<IIQQQQQQ", data, table + 56 * index)
        yield kind, offset, physical, size


def resources(guest: Made, name: str) -> list[tuple[int, int]]:
    """First and last address of the resources of this name in the guest's ``/proc/iomem``."""
    found = re.findall(rf"^ *(\w+)-(\w+) : {name}$", guest.truth["machine"]["iomem"], re.MULTILINE)
    return [(int(first, 16), int(last, 16)) for first, last in found]


def constants(guest: Made) -> tuple[int, int]:
    """First and last address of the kernel's constants; where iomem does not tell, the guest did."""
    if "rodata" in guest.truth["machine"]:
        first, last = guest.truth["machine"]["rodata"]
        return first, last
    ((first, last),) = resources(guest, "Kernel rodata")
    return first, last


@pytest.fixture(scope="module", params=[*sorted(guests.GUESTS), "arm64"])
def guest(request: pytest.FixtureRequest) -> Made:
    """Each guest whose memory was taken from inside, one with arm64 processors too."""
    name: str = request.param
    return made(name)


def whole_pages(guest: Made) -> list[tuple[int, int]]:
    """Start and end of what the guest's ``/proc/iomem`` calls system RAM, without halves of pages."""
    return [
        (-(-first // PAGE) * PAGE, (last + 1) // PAGE * PAGE)
        for first, last in resources(guest, "System RAM")
    ]


def joined(pieces: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Start and end of what lies side by side: a range may be written in pieces with a header each."""
    found: list[tuple[int, int]] = []
    for start, size in pieces:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], start + size)
        else:
            found.append((start, start + size))
    return found


@pytest.fixture(scope="module")
def record(guest: Made) -> Manifest:
    return manifest.load(f"{guest.lime_image}.json")


def left(guest: Made, name: str) -> dict[str, Any]:
    """The report that a guest left under that name."""
    path = guest.folder / name
    if not path.exists():
        pytest.skip(f"this guest is older than its {name} (MEMDUMP_LAB_KEEP=1 kept it)")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def lime(path: Path) -> Memory:
    """The memory in a LiME file, read by the words of LiME's documentation."""
    data = mapped(path)
    parts = []
    place = 0
    while place < len(data):
        magic, version, first, last = struct.unpack_from("<IIQQ8x", data, place)
        assert (magic, version) == (0x4C694D45, 1)
        parts.append((first, place + 32, last - first + 1))
        place += 32 + last - first + 1
    return Memory(data, parts)


def dumped(guest: Made, name: str) -> Memory:
    """The memory in an ELF core by QEMU."""
    data = mapped(guest.folder / name)
    parts = [(physical, offset, size) for kind, offset, physical, size in programs(data) if kind == 1]
    return Memory(data, parts)


def check_beside_kcore(guest: Made, compared: dict[str, Any], source: str) -> None:
    """A block is read twice within milliseconds; what differs is what reads, and the buffers read into."""
    total = compared["same"] + compared["different"]
    for name, seconds in compared["seconds"].items():
        print(f"{guest.name}: {name} {total * PAGE / 1e6 / seconds:.0f} MB/s")
    print(f"{guest.name}: {compared['same'] / total:.2%} of {total} pages are the same")
    assert compared["unreadable"] == {"kcore": 0, source: 0}
    assert compared["same"] / total > 0.98


def sums(memory: Memory, ranges: Sequence[Range]) -> array.array[int]:
    """The CRC-32 of each page."""
    found = array.array("I")
    for one in ranges:
        content = memory.at(one.start, one.size)
        found.extend(zlib.crc32(content[at : at + PAGE]) for at in range(0, one.size, PAGE))
    return found


def check_beside_qemu(
    guest: Made,
    ours: array.array[int],
    before: Memory,
    after: Memory,
    record: Manifest,
    shares: Shares = Shares(),  # noqa: B008
) -> None:
    """See that each page that was the same before and after was read just so, from its checksum.

    Of the kernel's constants that is true of all, of others of as good as all.
    """
    earlier, later = sums(before, record.ranges), sums(after, record.ranges)
    assert len(ours) == len(earlier) == len(later)
    first, last = constants(guest)
    addresses = [at for one in record.ranges for at in range(one.start, one.end, PAGE)]
    constant = [index for index, at in enumerate(addresses) if first <= at <= last]
    assert len(constant) > 256
    assert [ours[index] for index in constant] == [earlier[index] for index in constant]
    unchanged = [index for index, found in enumerate(earlier) if found == later[index]]
    print(f"{guest.name}: {len(unchanged) / len(ours):.2%} of {len(ours)} pages did not change")
    for what, least, chosen in (
        ("hold something", shares.same, [index for index in unchanged if earlier[index] != EMPTY]),
        ("are empty", shares.empty_same, [index for index in unchanged if earlier[index] == EMPTY]),
    ):
        same = sum(ours[index] == earlier[index] for index in chosen) / max(len(chosen), 1)
        print(f"{guest.name}: {same:.2%} of {len(chosen)} that {what} are what QEMU saw")
        if least is not None:
            assert len(chosen) > 10_000
            assert same >= least
