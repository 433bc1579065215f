"""The kernel's log: the ring buffer of ``kernel/printk/printk_ringbuffer.c``, as it is since Linux 5.10.

A ring of descriptors says in which state a record is and where its text lies; a ring of infos, in step
with it, has time and level; the text ring has a block per record, which begins with its number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from drgn import sizeof

from memdump.kernel.fields import Fields
from memdump.kernel.partial import read_partial

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from drgn import Object, Type

    from memdump.kernel.kernel import Kernel

STATE_SHIFT = 62
NUMBER_MASK = (1 << STATE_SHIFT) - 1
COMMITTED, FINALIZED = 1, 2
"""``enum desc_state``: written, but could be continued; and complete."""
LOST_TEXT, NO_TEXT = 1, 3
"""``FAILED_LPOS`` and ``NO_LPOS``: positions of a record whose text found no room, and of an empty line."""
NUMBER_SIZE = 8
CALLER_IS_CPU = 1 << 31
DESCRIPTOR_MEMBERS = ("state_var.counter", "text_blk_lpos.begin", "text_blk_lpos.next")
INFO_MEMBERS = ("seq", "ts_nsec", "text_len", "facility", "caller_id")


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
    level: int


@dataclass(frozen=True, slots=True)
class Ring:
    """A ring buffer that was read; both sequences and the text have a power of two as length."""

    tail: int
    head: int
    descriptors: Sequence[Descriptor]
    infos: Sequence[Info]
    text: bytes

    def records(self) -> Iterator[Record | str]:
        """From the oldest to the newest, each record, or why it cannot be read."""
        count = min((self.head - self.tail & NUMBER_MASK) + 1, len(self.descriptors))
        for number in range(self.head - count + 1, self.head + 1):
            number &= NUMBER_MASK
            descriptor = self.descriptors[number % len(self.descriptors)]
            if descriptor.state & NUMBER_MASK != number:
                yield f"descriptor {number:#x} has been used anew"
            elif descriptor.state >> STATE_SHIFT & 3 in (COMMITTED, FINALIZED):
                text = self._text(number, descriptor)
                yield (
                    f"the text of record {number:#x} is lost" if text is None else self._record(number, text)
                )

    def _record(self, number: int, text: bytes) -> Record:
        info = self.infos[number % len(self.infos)]
        return Record(
            info.sequence,
            info.time,
            info.level,
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


def read_ring(kernel: Kernel, table: str) -> Ring:
    """Read the ring buffer whole; what is missing of it is noted for ``table``.

    Raises `LookupError` if the kernel has none, `ValueError` if it makes no sense, `drgn.FaultError` if it
    cannot be read.
    """
    program = kernel.program
    buffer = program["prb"].read_()
    ring, text = buffer.desc_ring.read_(), buffer.text_data_ring.read_()
    count, size = 1 << ring.count_bits.value_(), 1 << text.size_bits.value_()

    def read(place: str, address: Object, size: int) -> bytes:
        return read_partial(kernel, address.value_(), size, table, place)

    descriptor_fields = Fields(program.type("struct prb_desc"), *DESCRIPTOR_MEMBERS)
    descriptors = read("descriptors of the log", ring.descs, count * descriptor_fields.size)
    infos = read("times of the log", ring.infos, count * sizeof(program.type("struct printk_info")))
    return Ring(
        tail=ring.tail_id.counter.value_() & NUMBER_MASK,
        head=ring.head_id.counter.value_() & NUMBER_MASK,
        descriptors=[Descriptor(*values) for values in descriptor_fields.array(descriptors)],
        infos=list(_infos(program.type("struct printk_info"), infos)),
        text=read("text of the log", text.data, size),
    )


def _infos(type_: Type, data: bytes) -> Iterator[Info]:
    fields = Fields(type_, *INFO_MEMBERS)
    # Three bits of a byte that it shares with flags.
    level = next(member.bit_offset for member in type_.members or () if member.name == "level")
    bytes_with_level = data[level // 8 :: fields.size]
    for (sequence, time, length, facility, caller), byte in zip(
        fields.array(data), bytes_with_level, strict=True
    ):
        yield Info(sequence, time, length, facility, caller, byte >> level % 8 & 7)
