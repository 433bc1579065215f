"""What physical memory can be read from."""

import abc
from typing import List, NamedTuple, Optional, Sequence

from memdump.machine import host
from memdump.machine.buffers import page_aligned
from memdump.machine.host import Host, Instant


class Range(NamedTuple):
    """A run of physical memory: ``start`` (address) and ``size``, both in bytes."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The first address behind the range."""
        return self.start + self.size


class Source(abc.ABC):
    """Something that gives the physical memory of a running machine.

    What is not overridden holds for the machine that memdump itself runs on, and for a source that never
    pauses it.
    """

    name: str
    """What ``--source`` calls it."""
    page_size: int = host.PAGE_SIZE
    evidence: Optional[str] = None
    """How it is known which memory stands under which address, where that is not plain."""
    vmcoreinfo: Optional[str] = None
    """The kernel's VMCOREINFO text, where the source has it."""
    pauses_machine = False
    """Whether the machine stands still between `begin` and `end`."""

    @abc.abstractmethod
    def ranges(self) -> Sequence[Range]:
        """Give the ranges of system RAM, of whole pages, ascending and disjoint."""

    def ranges_now(self) -> Sequence[Range]:
        """Give the ranges anew: a machine may be given memory while it runs.

        Those of `ranges` where that cannot be told.
        """
        return self.ranges()

    def offline(self) -> Sequence[Range]:
        """Give what the kernel does not use at the moment, though it may be in the ranges; ascending."""
        from memdump.machine import offline  # which has ranges of its own to tell

        return offline.blocks()

    @abc.abstractmethod
    def read_into(self, address: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from physical ``address``.

        Raises ``OSError`` where any part of it cannot be read; the caller then asks for smaller blocks, down
        to a page.  Raises `memdump.errors.MemdumpError` where nothing more can be read at all.
        """

    def buffer(self, size: int) -> memoryview:
        """Give a buffer for reads, one that suits the source best; any other does too."""
        return page_aligned(size)

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what is held open."""

    def begin(self) -> None:  # noqa: B027
        """Make ready: called once, just before the first byte is read."""

    def end(self) -> List[float]:
        """Let the machine run on, if it was paused, and give the seconds of each pause.

        Called once after the last byte, also when something failed, and always after `begin`.
        """
        return []

    def expect(self, ranges: Sequence[Range]) -> None:  # noqa: B027
        """Hear which reads come next, in this order; a source far away can then send ahead."""

    def host(self) -> Host:
        """Tell which machine it is."""
        return host.this_host()

    def now(self) -> Instant:
        """Read its clocks."""
        return host.now()

    def broken(self) -> int:
        """Give the bytes of its memory that have a hardware error, as far as the kernel counts them."""
        return host.broken_memory()

    def page_flags(self, address: int, size: int) -> bytes:
        """Give what the kernel says of each page: 8 bytes a page, in its byte order.

        The bits are those of ``/proc/kpageflags`` (kernel, ``include/uapi/linux/kernel-page-flags.h``).
        Raises ``OSError`` where that is not to be had.
        """
        return host.page_flags(address // self.page_size, size // self.page_size)
