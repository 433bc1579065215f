"""Reads what the guest recorded of its /proc: proc(5)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tests.lab.guests import Made

Truth = dict[str, Any]
DELETED = " (deleted)"
PASSING = ("kworker/", "ext4lazyinit")
"""Beginnings of the names of kernel threads that may end at any moment."""


def processes(guest: Made) -> dict[int, Truth]:
    """What was recorded of each process that lasted until the image was taken, by pid."""
    return {found["pid"]: found for found in guest.truth["processes"] if found["pid"] not in _passing(guest)}


def role(guest: Made, name: str) -> int:
    """The pid of the process that plays a role."""
    pid: int = guest.truth["scenario"]["roles"][name]
    return pid


def recorder(guest: Made) -> int:
    """The pid of the process that recorded the truth, and so did not stand still."""
    pid: int = guest.truth["recorder"]
    return pid


def _passing(guest: Made) -> set[int]:
    """Kernel threads that come and go as they please."""
    return {
        found["pid"]
        for found in guest.truth["processes"]
        if found["kernel_thread"] and found["threads"][0]["comm"].startswith(PASSING)
    }


def stat(text: str) -> list[str]:
    """The fields of ``stat`` by their number in proc(5); there is none with number 0."""
    name = text[text.index("(") + 1 : text.rindex(")")]
    return ["", text.split(" ", 1)[0], name, *text[text.rindex(")") + 2 :].split()]


def status(text: str) -> dict[str, str]:
    """The fields of ``status`` by name."""
    return dict(re.findall(r"^(\w+):[ \t]*(.*)$", text, re.MULTILINE))


class Mapping(NamedTuple):
    """A line of ``maps``."""

    start: int
    end: int
    permissions: str
    offset: int
    inode: int
    path: str | None


LINE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) \S+ (\d+) *(.*)$", re.MULTILINE)


def maps(text: str) -> list[Mapping]:
    """The lines of ``maps``, but for the page that is the kernel's and the same everywhere."""
    found = [
        Mapping(int(start, 16), int(end, 16), permissions, int(offset, 16), int(inode), path or None)
        for start, end, permissions, offset, inode, path in LINE.findall(text)
    ]
    return [mapping for mapping in found if mapping.path != "[vsyscall]"]


def resident(text: str) -> dict[int, int]:
    """Rss of each mapping in ``smaps``, in bytes, by its first address."""
    found = {}
    for part in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text):
        size = re.search(r"^Rss: *(\d+) kB$", part, re.MULTILINE)
        if size:
            found[int(part.split("-", 1)[0], 16)] = int(size[1]) * 1024
    return found


def unescaped(path: str) -> str:
    """A path out of ``maps``, where a newline stands as an octal number."""
    return path.replace(r"\012", "\n")
