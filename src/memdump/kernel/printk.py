"""The kernel's log: the ring buffer of ``kernel/printk/printk_ringbuffer.c``, as it is since Linux 5.10.

A ring of descriptors says in which state a record is and where its text lies; a ring of infos, in step
with it, has time and level; the text ring has a block per record, which begins with its number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from drgn import offsetof, sizeof

from memdump.kernel.fields import Fields
from memdump.kernel.partial import read_partial
from memdump.kernel.vmcoreinfo import VmcoreInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drgn import Program

    from memdump.kernel.kernel import Kernel

STATE_SHIFT = 62
NUMBER_MASK = (1 << STATE_SHIFT) - 1
COMMITTED, FINALIZED = 1, 2
"""``enum desc_state``: written, but could be continued; and complete."""
LOST_TEXT, NO_TEXT = 1, 3
"""``FAILED_LPOS`` and ``NO_LPOS``: positions of a record whose text found no room, and of an empty line."""
NUMBER_SIZE = 8
CALLER_IS_CPU = 1 << 31
MOST_BITS = 28
LEVEL_SHIFT = 5
"""The level is the upper bits of a byte, flags are the others."""


class Record(NamedTuple):
    """A record of the log; ``time`` is in nanoseconds of the clock of printk, which starts at boot."""

    sequence: int
    time: int
    level: int
    facility: int
    thread: int | None
    """Thread id of who wrote it; None if it came from an interrupt."""
    text: bytes


class Descriptor(NamedTuple):
    """A ``struct prb_desc``."""

    state: int
    begin: int
    next: int


class Info(NamedTuple):
    """A ``struct printk_info``."""

    sequence: int
    time: int
    length: int
    facility: int
    caller: int
    flags_and_level: int


@dataclass(frozen=True, slots=True)
class Ring:
    """A ring buffer that was read; its places are unpacked where one is asked for: most are empty."""

    tail: int
    head: int
    places: int
    """How many records there is a place for: a power of two, as is the length of the text."""
    descriptor: Callable[[int], Descriptor]
    info: Callable[[int], Info]
    text: bytes

    def records(self) -> Iterator[Record | str]:
        """From the oldest to the newest, each record, or why it cannot be read."""
        count = min((self.head - self.tail & NUMBER_MASK) + 1, self.places)
        for number in range(self.head - count + 1, self.head + 1):
            number &= NUMBER_MASK
            descriptor = self.descriptor(number % self.places)
            if descriptor.state & NUMBER_MASK != number:
                yield f"descriptor {number:#x} has been used anew"
            elif descriptor.state >> STATE_SHIFT & 3 in (COMMITTED, FINALIZED):
                text = self._text(number, descriptor)
                yield (
                    f"the text of record {number:#x} is lost" if text is None else self._record(number, text)
                )

    def _record(self, number: int, text: bytes) -> Record:
        info = self.info(number % self.places)
        return Record(
            info.sequence,
            info.time,
            info.flags_and_level >> LEVEL_SHIFT,
            info.facility,
            None if info.caller & CALLER_IS_CPU else info.caller,
            text[: info.length],
        )

    def _text(self, number: int, descriptor: Descriptor) -> bytes | None:
        """The text block without its number, as ``get_data`` finds it."""
        begin, following = descriptor.begin, descriptor.next
        if begin & 1 and following & 1:
            return b"" if begin == following == NO_TEXT else None
        size = len(self.text)
        start, end = begin % size, following % size
        if begin // size != following // size:
            # The block did not fit behind the last one: it stands at the beginning, and ends there at least.
            start = start if not end else 0
            end = end or size
        block = self.text[start:end]
        if len(block) < NUMBER_SIZE or int.from_bytes(block[:NUMBER_SIZE], "little") != number:
            return None
        return block[NUMBER_SIZE:]


class Layout(Protocol):
    """How the structures of the log are laid out; raises `LookupError` where that is not known."""

    def offset(self, structure: str, member: str) -> int:
        """Where a member is, in bytes."""

    def size(self, structure: str) -> int:
        """How large a structure is, in bytes."""


class LayoutByTypes:
    """As the types of the kernel say."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def offset(self, structure: str, member: str) -> int:
        """See `Layout`."""
        return int(offsetof(self._program.type(f"struct {structure}"), member))

    def size(self, structure: str) -> int:
        """See `Layout`."""
        return int(sizeof(self._program.type(f"struct {structure}")))


class LayoutByVmcoreInfo:
    """As VMCOREINFO says, for where types are missing: see ``log_buf_vmcoreinfo_setup``."""

    def __init__(self, text: bytes) -> None:
        self._info = VmcoreInfo(text)

    def offset(self, structure: str, member: str) -> int:
        """See `Layout`."""
        return self._known(self._info.offset(structure, member), f"{structure}.{member}")

    def size(self, structure: str) -> int:
        """See `Layout`."""
        return self._known(self._info.size(structure), structure)

    def _known(self, value: int | None, what: str) -> int:
        if value is None:
            raise LookupError(f"neither the types of the kernel nor VMCOREINFO tell of {what}")
        return value


def read_ring(kernel: Kernel, table: str) -> Ring:
    """Read the ring buffer whole; what is missing of it is noted for ``table``.

    Raises `LookupError` if the kernel has none, `ValueError` if it makes no sense, `drgn.FaultError` if it
    cannot be read.
    """
    program = kernel.program
    layout: Layout = LayoutByTypes(program) if kernel.btf else LayoutByVmcoreInfo(kernel.vmcoreinfo)
    pointer = kernel.symbols.address_of("prb")
    if pointer is None:
        raise LookupError("prb is not among the symbols: a kernel before 5.10, or torn symbols")
    count_bits, descriptors, infos, head, tail, text_bits, text = _buffer(layout).read(
        program, program.read_u64(pointer)
    )
    if count_bits > MOST_BITS or text_bits > MOST_BITS:
        raise ValueError(f"a log of 2^{text_bits} bytes with 2^{count_bits} records is absurd")

    def array(place: str, address: int, fields: Fields) -> Callable[[int], tuple[int, ...]]:
        data = read_partial(kernel, address, fields.size << count_bits, table, place)
        return lambda number: fields.unpack(data, number * fields.size)

    descriptor = array("descriptors of the log", descriptors, _descriptor(layout))
    info = array("times of the log", infos, _info(layout))

    return Ring(
        tail & NUMBER_MASK,
        head & NUMBER_MASK,
        1 << count_bits,
        lambda number: Descriptor(*descriptor(number)),
        lambda number: Info(*info(number)),
        read_partial(kernel, text, 1 << text_bits, table, "text of the log"),
    )


def _buffer(layout: Layout) -> Fields:
    """Of ``struct printk_ringbuffer``."""
    ring, text = (layout.offset("printk_ringbuffer", name) for name in ("desc_ring", "text_data_ring"))
    return Fields.at(
        layout.size("printk_ringbuffer"),
        (ring + layout.offset("prb_desc_ring", "count_bits"), "I"),
        (ring + layout.offset("prb_desc_ring", "descs"), "Q"),
        (ring + layout.offset("prb_desc_ring", "infos"), "Q"),
        (ring + layout.offset("prb_desc_ring", "head_id"), "Q"),
        (ring + layout.offset("prb_desc_ring", "tail_id"), "Q"),
        (text + layout.offset("prb_data_ring", "size_bits"), "I"),
        (text + layout.offset("prb_data_ring", "data"), "Q"),
    )


def _descriptor(layout: Layout) -> Fields:
    position = layout.offset("prb_desc", "text_blk_lpos")
    return Fields.at(
        layout.size("prb_desc"),
        (layout.offset("prb_desc", "state_var"), "Q"),
        (position + layout.offset("prb_data_blk_lpos", "begin"), "Q"),
        (position + layout.offset("prb_data_blk_lpos", "next"), "Q"),
    )


def _info(layout: Layout) -> Fields:
    # VMCOREINFO does not tell of facility and level: they are two bytes between the length and the caller.
    length = layout.offset("printk_info", "text_len")
    return Fields.at(
        layout.size("printk_info"),
        (layout.offset("printk_info", "seq"), "Q"),
        (layout.offset("printk_info", "ts_nsec"), "Q"),
        (length, "H"),
        (length + 2, "B"),
        (layout.offset("printk_info", "caller_id"), "I"),
        (length + 3, "B"),
    )
