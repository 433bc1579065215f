"""VMCOREINFO: the facts that a kernel writes down about itself for crash dumps.

It is plain text, ``KEY=value`` lines that begin with ``OSRELEASE=``, in a page of its own, and can occur
more than once in a memory image: in the page itself, in the note made of it, and in what earlier kernels
left behind.  Source: ``kernel/vmcore_info.c`` (``kernel/crash_core.c`` before 6.9) and
``Documentation/admin-guide/kdump/vmcoreinfo.rst`` of Linux.
"""

from __future__ import annotations

from functools import cached_property

BEGINNING = b"OSRELEASE="
LARGEST = 4096
"""VMCOREINFO fits into one page: ``VMCOREINFO_BYTES``."""


class VmcoreInfo:
    """A parsed VMCOREINFO text.  Values that are malformed count as absent."""

    def __init__(self, text: bytes) -> None:
        self.text = text[:LARGEST].split(b"\0", 1)[0]

    @cached_property
    def _values(self) -> dict[str, str]:
        lines = self.text.decode("ascii", "replace").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    @property
    def release(self) -> str | None:
        """The kernel release, as ``uname -r`` says it."""
        return self._values.get("OSRELEASE")

    @property
    def build_id(self) -> str | None:
        """The build id of vmlinux in hex; kernels before 5.9 do not give it."""
        return self._values.get("BUILD-ID") or None

    def number(self, name: str) -> int | None:
        """The value of ``NUMBER(name)``."""
        return self._integer(f"NUMBER({name})", 10)

    def symbol(self, name: str) -> int | None:
        """The virtual address ``SYMBOL(name)``."""
        return self._integer(f"SYMBOL({name})", 16)

    def offset(self, structure: str, member: str) -> int | None:
        """The value of ``OFFSET(structure.member)``, in bytes."""
        return self._integer(f"OFFSET({structure}.{member})", 10)

    def size(self, structure: str) -> int | None:
        """The value of ``SIZE(structure)``, in bytes."""
        return self._integer(f"SIZE({structure})", 10)

    def _integer(self, key: str, base: int) -> int | None:
        try:
            return int(self._values[key], base)
        except (KeyError, ValueError):
            return None

    def __bool__(self) -> bool:
        return self.text.startswith(BEGINNING) and b"\nPAGESIZE=" in self.text
