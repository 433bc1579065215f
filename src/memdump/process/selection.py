"""Which mappings of a process go into its core, and how much of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memdump.machine.host import PAGE_SIZE
from memdump.process.maps import Details

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Mapping as Dictionary

    from memdump.process.maps import Mapping

KINDS = ("file", "shared", "huge")
_NEVER = (b"[vvar]", b"[vvar_vclock]", b"[vsyscall]")
"""Of the kernel, which lets nobody read them in another process."""
_OF_DEVICES = frozenset({"io", "pf"})
_IN_MEMORY = (b"/dev/shm/", b"/SYSV", b"/memfd:", b"/dev/zero", b"/anon_hugepage", b"/i915")
_DELETED = b" (deleted)"
# The bits of coredump_filter (core(5)).
_ANON_PRIVATE, _ANON_SHARED, _FILE_PRIVATE, _FILE_SHARED, _HEADERS, _HUGE_PRIVATE, _HUGE_SHARED = (
    1 << bit for bit in range(7)
)


class Choice(NamedTuple):
    """What is to be left out."""

    skip: frozenset[str] = frozenset()
    """Of `KINDS`."""
    filter: int | None = None
    """Bits of ``coredump_filter``; None for everything that can be read."""


class Chosen(NamedTuple):
    """A mapping, and how many bytes of it go into the core."""

    mapping: Mapping
    details: Details
    size: int
    reason: str | None
    """Why it is not all."""


def choose(
    mappings: Iterable[Mapping], details: Dictionary[tuple[int, int], Details], choice: Choice
) -> list[Chosen]:
    """Decide for all mappings; all of them are in the result, so that a debugger knows the addresses."""
    unknown = Details(resident=1, anonymous=1)
    chosen = []
    for mapping in mappings:
        found = details.get((mapping.start, mapping.end), unknown)
        reason = _against(mapping, found, choice)
        size = mapping.size if reason is None else 0
        if reason in ("file", "filter") and _may_begin_elf(mapping) and _wants_headers(choice):
            size = min(PAGE_SIZE, mapping.size)  # with the build id in it
        chosen.append(Chosen(mapping, found, size, reason))
    return chosen


def is_file(mapping: Mapping) -> bool:
    """Whether the content of a mapping is a file's that is on a disk, not one in memory."""
    return mapping.of_file and not mapping.path.startswith(_IN_MEMORY)


def _against(mapping: Mapping, details: Details, choice: Choice) -> str | None:
    if mapping.path in _NEVER or details.flags & _OF_DEVICES:
        return "device"
    if mapping.permissions.startswith("---") and not details.resident:
        return "empty"
    if choice.filter is not None:
        return None if _passes(mapping, details, choice.filter) else "filter"
    if "huge" in choice.skip and "ht" in details.flags:
        return "huge"
    if "shared" in choice.skip and mapping.shared:
        return "shared"
    if "file" in choice.skip and is_file(mapping) and not details.anonymous:
        return "file"
    return None


def _passes(mapping: Mapping, details: Details, bits: int) -> bool:
    """Decide as the kernel does (``vma_dump_size`` in ``fs/coredump.c``)."""
    if mapping.path == b"[vdso]":
        return True
    if "dd" in details.flags:
        return False
    if "ht" in details.flags:
        wanted = _HUGE_SHARED if mapping.shared else _HUGE_PRIVATE
    elif mapping.shared:
        nameless = not is_file(mapping) or mapping.path.endswith(_DELETED)
        wanted = _ANON_SHARED if nameless else _FILE_SHARED
    elif details.anonymous or not mapping.of_file:
        wanted = _ANON_PRIVATE
    else:
        wanted = _FILE_PRIVATE
    return bool(bits & wanted)


def _wants_headers(choice: Choice) -> bool:
    return choice.filter is None or bool(choice.filter & _HEADERS)


def _may_begin_elf(mapping: Mapping) -> bool:
    return mapping.of_file and mapping.offset == 0 and mapping.permissions[0] == "r"
