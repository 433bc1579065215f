"""The ``neighbours`` table: who is, or was looked for, on the same link."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

from drgn import Object, offsetof

from memdump.kernel.fields import Fields, first_member
from memdump.kernel.network import ip_address, link_address
from memdump.kernel.partial import read_partial
from memdump.kernel.text import decode
from memdump.tables.schema import DETAIL, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel

STATES = {
    0x00: "NONE",
    0x01: "INCOMPLETE",
    0x02: "REACHABLE",
    0x04: "STALE",
    0x08: "DELAY",
    0x10: "PROBE",
    0x20: "FAILED",
    0x40: "NOARP",
    0x80: "PERMANENT",
}
"""``NUD_*`` of ``include/uapi/linux/neighbour.h``, in the words of ip(8)."""
WITH_ADDRESS = 0x80 | 0x40 | 0x02 | 0x10 | 0x04 | 0x08
"""``NUD_VALID``: the states in which the address on the link is known."""
NTF_ROUTER = 0x80
TABLES = {"arp_tbl": 4, "nd_tbl": 16}
"""The tables of IPv4 and of IPv6, and the size of their addresses."""
LONGEST_ADDRESS = 32
"""``MAX_ADDR_LEN``"""
LARGEST_SHIFT = 24
MOST_NEIGHBOURS = 1 << 16
"""In one bucket."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An address on the same link, as ``ip neighbour show nud all`` lists them."""

    ip: Annotated[str, "IPv4 or IPv6 address"]
    mac: Annotated[str | None, "Its address on the link; null as long as it is not known"]
    interface: Annotated[str, "Interface that leads to it"]
    state: Annotated[str, "REACHABLE, STALE, FAILED, PERMANENT, NOARP (nobody need be asked) ..."]
    router: Annotated[bool, "It says that it is a router", DETAIL]
    network_namespace: Annotated[int, "Inode number of the network namespace"]


class Device(NamedTuple):
    """What a neighbour needs to know of the interface that leads to it."""

    name: str
    namespace: int
    address_length: int


@table(Neighbour)
def neighbours(kernel: Kernel) -> Iterator[Neighbour]:
    """Go through the hash tables of ARP and of neighbour discovery (``net/core/neighbour.c``)."""
    reader = _Reader(kernel)
    for name, size in TABLES.items():
        with kernel.problems.skipping("neighbours", name):
            yield from reader.rows(name, size)


class _Reader:
    """Reads ``struct neighbour``, and each interface once."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._program = kernel.program
        type_ = self._program.type("struct neighbour")
        # A list of its own kind until 6.12, an hlist from 6.13 on.
        following = first_member(type_, "hash.next", "next")
        self._fields = Fields(type_, following, "nud_state", "flags", "dev")
        self._link_address = offsetof(type_, "ha")
        self._key = offsetof(type_, "primary_key")
        self._devices: dict[int, Device] = {}

    def rows(self, name: str, size: int) -> Iterator[Neighbour]:
        """The rows of a table of the kernel whose addresses have ``size`` bytes."""
        problems = self._kernel.problems
        for first in self._buckets(name):
            for data in problems.walk("neighbours", name, self._chain(first, size), MOST_NEIGHBOURS):
                with problems.skipping("neighbours", name):
                    yield self._row(data, size)

    def _chain(self, address: int, size: int) -> Iterator[bytes]:
        while address:
            data = self._program.read(address, self._key + size)
            yield data
            address = self._fields.unpack(data)[0]

    def _buckets(self, name: str) -> list[int]:
        hash_table = self._program[name].nht
        shift = hash_table.hash_shift.value_()
        if shift > LARGEST_SHIFT:
            raise ValueError(f"a table of 2^{shift} buckets is absurd")
        heads = hash_table.hash_heads if hasattr(hash_table, "hash_heads") else hash_table.hash_buckets
        data = read_partial(self._kernel, heads.value_(), 8 << shift, "neighbours", name)
        return [first for (first,) in struct.iter_unpack("<Q", data) if first]

    def _row(self, data: bytes, size: int) -> Neighbour:
        _, state, flags, device = self._fields.unpack(data)
        interface = self._device(device)
        mac = data[self._link_address :][: min(interface.address_length, LONGEST_ADDRESS)]
        return Neighbour(
            ip=ip_address(data[self._key :][:size]),
            mac=link_address(mac) if state & WITH_ADDRESS else None,
            interface=interface.name,
            state=STATES.get(state, f"{state:#x}"),
            router=bool(flags & NTF_ROUTER),
            network_namespace=interface.namespace,
        )

    def _device(self, address: int) -> Device:
        found = self._devices.get(address)
        if found is None:
            device = Object(self._program, "struct net_device *", address)
            found = self._devices[address] = Device(
                decode(device.name.string_()),
                device.nd_net.net.ns.inum.value_(),
                device.addr_len.value_(),
            )
        return found
