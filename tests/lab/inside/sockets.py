"""Sockets of every family and in every state that stands still."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any

Kept = list[Any]


def configure_interfaces() -> None:
    """Loopback up, a dummy interface with addresses of both families, and neighbours set by hand."""
    ip(
        "link set lo up",
        "link add lab0 type dummy",
        "link set lab0 address 02:00:00:c0:ff:ee mtu 1400",
        "addr add 192.0.2.10/24 dev lab0",
        "addr add 198.51.100.7/25 dev lab0 label lab0:extra",
        "addr add 2001:db8::10/64 dev lab0 nodad",
        "link set lab0 up",
        "link add lab1 type dummy",
        "link set lab1 promisc on",
        "link add br0 type bridge",
        "link set lab1 master br0",
        "link add link lab0 name lab0.7 type vlan id 7",
        "neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 nud permanent dev lab0",
        "neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 nud noarp dev lab0",
        "neigh add 2001:db8::1 lladdr 02:00:00:00:00:03 nud permanent dev lab0",
        "neigh add proxy 192.0.2.99 dev lab0",
    )


def ip(*commands: str) -> None:
    """Have ip(8) do all this in the caller's network namespace."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


def _pair(family: int, address: str, port: int) -> tuple[socket.socket, socket.socket, socket.socket]:
    listener = socket.create_server((address, port), family=socket.AddressFamily(family))
    client = socket.create_connection((address, port))
    return listener, client, listener.accept()[0]


def tcp() -> Kept:
    """Listening on one, on all, on both families at once; established over both."""
    dual = socket.create_server(("::", 8443), family=socket.AF_INET6, dualstack_ipv6=True)
    over_dual = socket.create_connection(("127.0.0.1", 8443))
    lazy = socket.create_server(("0.0.0.0", 2222))
    return [
        lazy,
        socket.create_connection(("127.0.0.1", 2222)),  # which nobody accepts
        *_pair(socket.AF_INET, "127.0.0.1", 8080),
        *_pair(socket.AF_INET, "192.0.2.10", 4444),
        *_pair(socket.AF_INET6, "::1", 9090),
        *_pair(socket.AF_INET6, "2001:db8::10", 9091),
        dual,
        over_dual,
        dual.accept()[0],
    ]


def tcp_half_closed() -> Kept:
    """One end in CLOSE_WAIT; the other, whose owner still has it, in FIN_WAIT2."""
    listener, client, accepted = _pair(socket.AF_INET, "127.0.0.1", 7070)
    client.shutdown(socket.SHUT_WR)
    accepted.recv(1)
    unread = _pair(socket.AF_INET, "127.0.0.1", 7071)
    unread[1].sendall(b"never read")
    return [listener, client, accepted, *unread]


def tcp_time_wait() -> None:
    """Connections of both families that are over, so that only TIME_WAIT remembers them: for 60 seconds."""
    for family, address, port in ((socket.AF_INET, "127.0.0.1", 6060), (socket.AF_INET6, "::1", 6061)):
        listener, client, accepted = _pair(family, address, port)
        client.close()
        accepted.recv(1)
        accepted.close()
        listener.close()


def udp() -> Kept:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 5353))
    connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    connected.bind(("192.0.2.10", 5454))
    connected.connect(("192.0.2.200", 53))
    six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    six.bind(("::1", 5355))
    six_connected = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    six_connected.bind(("::1", 5356))
    six_connected.connect(("::1", 5355))
    any_six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    any_six.bind(("::", 1900))
    return [bound, connected, six, six_connected, any_six, socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]


def raw_and_packet() -> Kept:
    """What a sniffer and two kinds of pinger hold open."""
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
    ping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    ping.bind(("127.0.0.1", 777))
    icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    icmp6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    route.bind((0, 1))
    kept: Kept = [ping, icmp, icmp6, route]
    try:
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        sniffer.bind(("lab0", 0x0003))
        kept.append(sniffer)
    except OSError:
        pass  # af_packet is a module that not every kernel package has at hand
    return kept


def unix(folder: str) -> Kept:
    """Stream, datagram and seqpacket; named, abstract and nameless; listening, connected and neither."""
    kept: Kept = []
    for kind, name in (
        (socket.SOCK_STREAM, f"{folder}/stream.sock"),
        (socket.SOCK_SEQPACKET, f"{folder}/seqpacket.sock"),
        (socket.SOCK_STREAM, "\0lab-abstract"),
        (socket.SOCK_STREAM, b"\0lab-\xff\x00binary"),
    ):
        listener = socket.socket(socket.AF_UNIX, kind)
        listener.bind(name)
        listener.listen()
        client = socket.socket(socket.AF_UNIX, kind)
        client.connect(name)
        kept += [listener, client, listener.accept()[0]]
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(f"{folder}/datagram.sock")
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.connect(f"{folder}/datagram.sock")
    deleted = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    deleted.bind(f"{folder}/deleted.sock")
    deleted.listen()
    Path(f"{folder}/deleted.sock").unlink()
    pending = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    pending.connect("\0lab-abstract")
    return [*kept, receiver, sender, deleted, pending, *socket.socketpair(), socket.socket(socket.AF_UNIX)]
