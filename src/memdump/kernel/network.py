"""Network namespaces, and addresses as they are written."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from drgn.helpers.linux.list import list_for_each_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drgn import Object

    from memdump.kernel.kernel import Kernel

MOST_NAMESPACES = 1 << 16


def network_namespaces(kernel: Kernel, table: str) -> Iterator[tuple[int, Object]]:
    """Yield the inode number and the ``struct net *`` of each network namespace, the initial one first.

    Also of those that no process lives in: the list ``net_namespace_list`` is followed.
    """
    head = kernel.program["net_namespace_list"].address_of_()
    entries = list_for_each_entry("struct net", head, "list")
    for net in kernel.problems.walk(table, "list of network namespaces", entries, MOST_NAMESPACES):
        with kernel.problems.skipping(table, f"network namespace at {net.value_():#x}"):
            yield net.ns.inum.value_(), net


def ip_address(data: bytes) -> str:
    """An IPv4 address of 4 bytes or an IPv6 address of 16, as they stand in memory."""
    if len(data) == 4:
        return str(IPv4Address(data))
    address = IPv6Address(data)
    # An IPv4 address in a socket for both; Python writes it so only since 3.13.
    return f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else str(address)


def link_address(data: bytes) -> str | None:
    """The address of a link layer as ip(8) writes it; None if it has none.

    That of a tunnel is the IP address of its end.
    """
    if len(data) in (4, 16):
        return ip_address(data)
    return data.hex(":") or None
