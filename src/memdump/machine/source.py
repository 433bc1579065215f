"""What physical memory can be read from."""

from typing import NamedTuple, Optional, Protocol, Sequence


class Range(NamedTuple):
    """A run of physical memory: ``start`` (address) and ``size``, both in bytes."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The first address behind the range."""
        return self.start + self.size


class Source(Protocol):
    """Something that gives the physical memory of a running machine."""

    name: str
    vmcoreinfo: Optional[str]
    """The kernel's VMCOREINFO text, where the source has it."""

    def ranges(self) -> Sequence[Range]:
        """Give the ranges of system RAM, ascending and disjoint."""

    def read_into(self, address: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from physical ``address``.

        Raises ``OSError`` where any part of it cannot be read; the caller then asks for smaller blocks.
        """

    def close(self) -> None:
        """Give back what is held open."""
