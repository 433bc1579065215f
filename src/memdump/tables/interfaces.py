"""The ``interfaces`` table: network interfaces and their addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from drgn.helpers.linux.list import list_for_each_entry

from memdump.kernel.network import ip_address, link_address, network_namespaces
from memdump.kernel.text import decode
from memdump.tables.schema import DETAIL, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drgn import Object

    from memdump.kernel.kernel import Kernel

TYPES = {
    1: "ether",
    32: "infiniband",
    280: "can",
    512: "ppp",
    519: "rawip",
    768: "ipip",
    769: "tunnel6",
    772: "loopback",
    776: "sit",
    778: "gre",
    801: "ieee802.11",
    803: "ieee802.11/radiotap",
    823: "gre6",
    824: "netlink",
    826: "vsockmon",
    65534: "none",
}
"""``ARPHRD_*`` of ``include/uapi/linux/if_arp.h``, in the words of ip(8)."""
STATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")
"""``IF_OPER_*`` of ``include/uapi/linux/if.h``, in the words of ip(8)."""
UNKNOWN, DOWN, UP = 0, 2, 6
FLAGS = {
    1 << 3: "LOOPBACK",
    1 << 1: "BROADCAST",
    1 << 4: "POINTOPOINT",
    1 << 12: "MULTICAST",
    1 << 7: "NOARP",
    1 << 9: "ALLMULTI",
    1 << 8: "PROMISC",
    1 << 10: "MASTER",
    1 << 11: "SLAVE",
    1 << 2: "DEBUG",
    1 << 14: "DYNAMIC",
    1 << 15: "AUTOMEDIA",
    1 << 13: "PORTSEL",
    1 << 5: "NOTRAILERS",
    1 << 0: "UP",
    1 << 16: "LOWER_UP",
    1 << 17: "DORMANT",
    1 << 18: "ECHO",
}
"""``IFF_*`` of ``include/uapi/linux/if.h``, in the order and the words of ip(8)."""
IFF_UP, LOWER_UP, IS_DORMANT = 1 << 0, 1 << 16, 1 << 17
ASKED_FOR = 1 << 8 | 1 << 9
"""IFF_PROMISC and IFF_ALLMULTI: what a user asked for stands in ``gflags``."""
START, NO_CARRIER, STATE_DORMANT = 1 << 0, 1 << 2, 1 << 4
"""Bits of ``net_device.state``: ``enum netdev_state_t``."""
MOST_DEVICES = 1 << 18
MOST_ADDRESSES = 1 << 16
LONGEST_ADDRESS = 32
"""``MAX_ADDR_LEN``"""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface, as ip(8) shows it."""

    name: Annotated[str, "Name of the interface"]
    index: Annotated[int, "Its number, unique within the network namespace"]
    state: Annotated[str, "UP, DOWN, UNKNOWN (a driver that does not tell: in use if the flags say UP) ..."]
    mac: Annotated[str | None, "Its address on the link; null if it has none"]
    addresses: Annotated[str, "IPv4, then IPv6 addresses with their prefix lengths, separated by blanks"]
    mtu: Annotated[int, "Largest packet in bytes"]
    type: Annotated[str, "Type of the link: ether, loopback ..."]
    kind: Annotated[str | None, "What makes it, if it is virtual: veth, bridge, tun, wireguard ...", DETAIL]
    master: Annotated[str | None, "The bridge, bond or other interface that it is part of"]
    promiscuous: Annotated[
        bool, "It takes in packets that are meant for others, be it for a sniffer or for a bridge"
    ]
    flags: Annotated[str, "UP, LOWER_UP, NO-CARRIER, LOOPBACK ..., separated by commas", DETAIL]
    network_namespace: Annotated[int, "Inode number of the network namespace"]


@table(Interface)
def interfaces(kernel: Kernel) -> Iterator[Interface]:
    """Follow the list of devices of every network namespace (``net/core/dev.c``)."""
    for namespace, net in network_namespaces(kernel, "interfaces"):
        devices = list_for_each_entry("struct net_device", net.dev_base_head.address_of_(), "dev_list")
        place = f"network namespace {namespace}"
        for device in kernel.problems.walk("interfaces", place, devices, MOST_DEVICES):
            with kernel.problems.skipping("interfaces", f"interface at {device.value_():#x}"):
                yield _row(kernel, device, namespace)


def _row(kernel: Kernel, pointer: Object, namespace: int) -> Interface:
    device: Any = pointer[0].read_()
    name = decode(device.name.string_())
    type_, links = device.type.value_(), device.rtnl_link_ops
    mac = master = None
    addresses: list[str] = []
    with kernel.problems.skipping("interfaces", f"link address of {name}"):
        length = min(device.addr_len.value_(), LONGEST_ADDRESS)
        mac = link_address(kernel.program.read(device.dev_addr, length))
    for found in (_ipv4(device), _ipv6(device)):
        addresses += kernel.problems.walk("interfaces", f"addresses of {name}", found, MOST_ADDRESSES)
    with kernel.problems.skipping("interfaces", f"master of {name}"):
        master = _master(kernel, pointer, name)
    return Interface(
        name=name,
        index=device.ifindex.value_(),
        state=_state(device),
        mac=mac,
        addresses=" ".join(addresses),
        mtu=device.mtu.value_(),
        type=TYPES.get(type_, str(type_)),
        kind=decode(links.kind.string_()) if links else None,
        master=master,
        promiscuous=device.promiscuity.value_() > 0,
        flags=",".join(flags_of(device)),
        network_namespace=namespace,
    )


def _state(device: Any) -> str:
    """As ``rtnl_fill_ifinfo`` of ``net/core/rtnetlink.c`` tells it."""
    state = device.operstate.value_() if device.state.value_() & START else DOWN
    return STATES[state] if state < len(STATES) else str(state)


def flags_of(device: Any) -> Iterator[str]:
    """As ``dev_get_flags`` of ``net/core/dev.c`` puts them together; ip(8) adds the first."""
    flags = device.flags.value_() & ~(ASKED_FOR | LOWER_UP | IS_DORMANT)
    flags |= device.gflags.value_() & ASKED_FOR
    state = device.state.value_()
    if state & START:
        flags |= 0 if state & NO_CARRIER else LOWER_UP
        flags |= IS_DORMANT if state & STATE_DORMANT else 0
    running = state & START and device.operstate.value_() in (UNKNOWN, UP)
    if flags & IFF_UP and not running:
        yield "NO-CARRIER"
    yield from (name for bit, name in FLAGS.items() if flags & bit)


def _ipv4(device: Any) -> Iterator[str]:
    if not device.ip_ptr:
        return
    entry = device.ip_ptr.ifa_list.read_()
    while entry:
        local: int = entry.ifa_local.value_()
        yield f"{ip_address(local.to_bytes(4, 'little'))}/{entry.ifa_prefixlen.value_()}"
        entry = entry.ifa_next.read_()


def _ipv6(device: Any) -> Iterator[str]:
    if not device.ip6_ptr:
        return
    head = device.ip6_ptr.addr_list.address_of_()
    for entry in list_for_each_entry("struct inet6_ifaddr", head, "if_list"):
        data = entry.prog_.read(entry.addr.address_of_(), 16)
        yield f"{ip_address(data)}/{entry.prefix_len.value_()}"


def _master(kernel: Kernel, device: Object, name: str) -> str | None:
    """The upper device that is its master, of which there is one at most (``struct netdev_adjacent``)."""
    uppers = list_for_each_entry("struct netdev_adjacent", device.adj_list.upper.address_of_(), "list")
    for upper in kernel.problems.walk("interfaces", f"master of {name}", uppers, MOST_DEVICES):
        if upper.master:
            return decode(upper.dev.name.string_())
    return None
