"""The mappings of a process: ``/proc/PID/maps``, and what only ``/proc/PID/smaps`` tells of them."""

from __future__ import annotations

import re
from typing import NamedTuple

_NUMBER = re.compile(rb"\s*(\d{1,19})\b")
_LINE = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) ([rwxsp-]{4}) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+) *([^\n]*)"
)
_PLAIN = (b"[heap]", b"[stack]", b"[anon:")
_ELF_FLAGS = {"r": 4, "w": 2, "x": 1}
_PROVIDED = ("um", "uw", "ui")


class Mapping(NamedTuple):
    """A line of ``maps``."""

    start: int
    end: int
    permissions: str
    """``rwxp``; the last is ``s`` where it is shared."""
    offset: int
    """Bytes into the file."""
    device: str
    inode: int
    path: bytes
    """The file, or a name in brackets, or nothing."""

    @property
    def size(self) -> int:
        """In bytes."""
        return self.end - self.start

    @property
    def shared(self) -> bool:
        """Whether what is written to it is seen by others."""
        return self.permissions[3] == "s"

    @property
    def of_file(self) -> bool:
        """Whether there is a file behind it, be it one in memory (``/dev/shm``, ``memfd``)."""
        return self.inode != 0

    @property
    def empty_is_zero(self) -> bool:
        """Whether its pages that were never touched are zeros: not a file's, not the kernel's own."""
        plain = not self.path or self.path.startswith(_PLAIN)
        return plain and not self.of_file and not self.shared

    @property
    def elf_flags(self) -> int:
        """The permissions as program headers have them."""
        return sum(flag for letter, flag in _ELF_FLAGS.items() if letter in self.permissions)


class Details(NamedTuple):
    """What ``smaps`` adds, at a moment just before."""

    resident: int = 0
    """Bytes that are in memory or in swap."""
    anonymous: int = 0
    """Bytes of these that are no file's, changed copies of a file's pages among them."""
    flags: frozenset[str] = frozenset()
    """Two letters each: ``dc`` not copied on fork, ``wf`` wiped on fork, ``dd`` not dumped, ``io``, ``ht``"""

    @property
    def provided(self) -> bool:
        """Whether a program provides the pages as they are touched (userfaultfd): others are not empty.

        The kernel lets nobody wait for such a page who reads the memory of another process.
        """
        return not self.flags.isdisjoint(_PROVIDED)


def parse(text: bytes) -> list[Mapping]:
    """Read ``maps``; what is no such line is passed over."""
    return [_mapping(found) for found in map(_LINE.fullmatch, text.split(b"\n")) if found]


def _mapping(found: re.Match[bytes]) -> Mapping:
    start, end, permissions, offset, device, inode, path = found.groups()
    return Mapping(
        int(start, 16),
        int(end, 16),
        permissions.decode("ascii"),
        int(offset, 16),
        device.decode("ascii"),
        int(inode),
        path.replace(b"\\012", b"\n"),  # the one character that is not written as it is
    )


def parse_details(text: bytes) -> dict[tuple[int, int], Details]:
    """Read ``smaps``, by the first address of a mapping and the one behind its last."""
    found: dict[tuple[int, int], Details] = {}
    key, sizes = (0, 0), dict.fromkeys(_SIZES, 0)
    for line in text.split(b"\n"):
        head = _LINE.fullmatch(line)
        if head:
            key, sizes = (int(head[1], 16), int(head[2], 16)), dict.fromkeys(_SIZES, 0)
            continue
        name, _, value = line.partition(b":")
        if name in sizes:
            number = _NUMBER.match(value)
            sizes[name] = int(number[1]) << 10 if number else 0
        elif name == b"VmFlags":
            flags = frozenset(value.decode("ascii").split())
            resident = sum(sizes[size] for size in _RESIDENT)
            found[key] = Details(resident, sizes[b"Anonymous"] + sizes[b"Swap"], flags)
    return found


_RESIDENT = (b"Rss", b"Swap", b"Private_Hugetlb", b"Shared_Hugetlb")
_SIZES = (*_RESIDENT, b"Anonymous")
