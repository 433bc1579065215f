"""Where the kernel itself keeps its sockets: hash tables, which know also those that no process holds.

A socket is in one of them from when it is bound or connected, a UNIX or packet socket from when it is made.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from drgn import Object, offsetof, sizeof

from memdump.kernel.network import network_namespaces
from memdump.kernel.partial import read_partial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memdump.kernel.kernel import Kernel

NETLINK_PROTOCOLS = 32
"""``MAX_LINKS``: the length of ``nl_table``."""
UNIX_BUCKETS = 512
"""``UNIX_HASH_SIZE``, or twice that before 6.0, which is the same."""
MOST_BUCKETS = 1 << 24
POINTER = 8


class SocketTables:
    """The socket tables of a kernel; what cannot be read of them is noted and left out."""

    def __init__(self, kernel: Kernel, table: str) -> None:
        self._kernel = kernel
        self._program = kernel.program
        self._table = table
        self._namespaces = [net for _, net in network_namespaces(kernel, table)]

    def addresses(self) -> Iterator[int]:
        """Addresses of every ``struct sock``, ``inet_timewait_sock`` and ``inet_request_sock`` in them."""
        # skc_nulls_node, which some of the tables use, stands in the same place.
        link = offsetof(self._program.type("struct sock_common"), "skc_node")
        for name, buckets in (
            ("TCP", self._tcp),
            ("UDP", self._udp),
            ("raw", self._raw),
            ("ping", self._ping),
            ("UNIX", self._unix),
            ("packet", self._packet),
        ):
            yield from self._sockets(name, buckets, link)
        netlink = self._program.type("struct netlink_sock")
        yield from self._sockets("netlink", self._netlink, offsetof(netlink, "node"))

    def _sockets(self, name: str, buckets: Callable[[], Iterator[int]], link: int) -> Iterator[int]:
        place = f"table of {name} sockets"
        for first in self._kernel.problems.walk(self._table, place, buckets()):
            yield from self._kernel.problems.walk(self._table, place, self._chain(first, link))

    def _chain(self, node: int, link: int) -> Iterator[int]:
        """Follow a chain: it ends with a null, or in tables of type ``hlist_nulls`` with an odd number."""
        seen = set()
        while node and not node & 1:
            if node in seen:
                raise ValueError(f"a chain runs into itself at {node:#x}")
            seen.add(node)
            yield node - link
            node = self._program.read_u64(node)

    def _tcp(self) -> Iterator[int]:
        """Connections, also closing and half open ones, are in ``ehash``, listeners apart."""
        for hashes in self._shared_and_own("tcp_hashinfo", lambda net: net.ipv4.tcp_death_row.hashinfo):
            yield from self._array(hashes.ehash, hashes.ehash_mask.value_() + 1, "chain")
            if hasattr(hashes, "listening_hash"):
                # Up to 5.18; there, lhash2 has the same sockets but links them in another place.
                yield from self._array(hashes.listening_hash + 0, len(hashes.listening_hash), "nulls_head")
            else:
                yield from self._array(hashes.lhash2, hashes.lhash2_mask.value_() + 1, "nulls_head")

    def _udp(self) -> Iterator[int]:
        for hashes in self._shared_and_own("udp_table", lambda net: net.ipv4.udp_table):
            yield from self._array(hashes.hash, hashes.mask.value_() + 1, "head")
        for hashes in self._shared_and_own("udplite_table"):  # until 7.0
            yield from self._array(hashes.hash, hashes.mask.value_() + 1, "head")

    def _raw(self) -> Iterator[int]:
        for name in ("raw_v4_hashinfo", "raw_v6_hashinfo"):
            hashes = self._program[name].ht
            yield from self._array(hashes + 0, len(hashes), "first")

    def _ping(self) -> Iterator[int]:
        """Sockets that ping(8) uses where it need not be root."""
        hashes = self._program["ping_table"].hash
        yield from self._array(hashes + 0, len(hashes), "first")

    def _unix(self) -> Iterator[int]:
        if self._kernel.symbols.address_of("unix_socket_table") is not None:
            yield from self._array(self._program["unix_socket_table"] + 0, UNIX_BUCKETS, "first")
            return
        for net in self._namespaces:  # from 6.0 on
            yield from self._array(net.unx.table.buckets, UNIX_BUCKETS, "first")

    def _packet(self) -> Iterator[int]:
        for net in self._namespaces if self._program.type("struct net").has_member("packet") else ():
            yield net.packet.sklist.first.value_()

    def _netlink(self) -> Iterator[int]:
        """A resizable hash table (``lib/rhashtable.c``) for each protocol."""
        protocols = self._program["nl_table"].read_()
        for protocol in range(NETLINK_PROTOCOLS):
            table = protocols[protocol].hash.tbl
            while table:
                if not table.nest:  # Nested tables come up only where memory ran out.
                    # The lowest bit is a lock, unlike in the other tables.
                    links = self._links(table.buckets + 0, table.size.value_())
                    yield from (link & ~1 for link in links)
                table = table.future_tbl.read_()

    def _shared_and_own(self, name: str, own: Callable[[Object], Object] | None = None) -> Iterator[Object]:
        """The table that namespaces share, and those that a namespace can have of its own since 6.1."""
        seen = set()
        if self._kernel.symbols.address_of(name) is not None:
            shared = self._program[name].address_of_()
            seen.add(shared.value_())
            yield shared
        for net in self._namespaces:
            try:
                found = own(net).read_() if own else None
            except AttributeError:
                return
            if found and found.value_() not in seen:
                seen.add(found.value_())
                yield found

    def _array(self, first: Object, count: int, head: str) -> Iterator[int]:
        """The first link of every bucket that is not empty."""
        return (link for link in self._links(first, count, head) if link and not link & 1)

    def _links(self, first: Object, count: int, head: str = "") -> Iterator[int]:
        """The first link of every bucket, in its member ``head``."""
        if count > MOST_BUCKETS:
            raise ValueError(f"a table of {count} buckets is absurd")
        bucket = first.type_.type
        size, offset = sizeof(bucket), offsetof(bucket, head) if head else 0
        data = read_partial(
            self._kernel, first.value_(), count * size, self._table, f"table at {first.value_():#x}"
        )
        layout = f"<{offset}xQ{size - offset - POINTER}x"
        return (link for (link,) in struct.iter_unpack(layout, data))
