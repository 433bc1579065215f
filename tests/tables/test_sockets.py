from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from memdump.tables import sockets
from tests.tables import proc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memdump.dump import Dump
    from memdump.tables.sockets import SocketRow
    from tests.lab.guests import Made

pytestmark = pytest.mark.lab

STATES = {
    0x01: "ESTABLISHED",
    0x02: "SYN_SENT",
    0x03: "SYN_RECV",
    0x04: "FIN_WAIT1",
    0x05: "FIN_WAIT2",
    0x06: "TIME_WAIT",
    0x07: "CLOSE",
    0x08: "CLOSE_WAIT",
    0x09: "LAST_ACK",
    0x0A: "LISTEN",
    0x0B: "CLOSING",
}
"""Documentation/networking/proc_net_tcp.rst."""
UNIX_TYPES = {1: "stream", 2: "dgram", 5: "seqpacket"}
ACCEPTS = 0x10000
"""``__SO_ACCEPTCON`` among the flags of a UNIX socket."""


class End(NamedTuple):
    """One end of a connection; ``address`` is None for any, ``port`` for none."""

    address: str | None
    port: int | None


class Internet(NamedTuple):
    """A line of /proc/net/tcp and its like."""

    namespace: int
    family: str
    protocol: str
    local: End
    remote: End
    state: str
    inode: int | None


def end(field: str) -> End:
    """``0100007F:1F90``: words of the address in the byte order of the machine, and the port."""
    address, port = field.split(":")
    data = b"".join(bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8))
    text = str(ipaddress.ip_address(data))
    if len(data) == 16 and (mapped := ipaddress.IPv6Address(data).ipv4_mapped):
        text = f"::ffff:{mapped}"
    return End(text, int(port, 16))


def lines(guest: Made, name: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of a file of /proc/net in every namespace, without its heading."""
    for namespace, files in guest.truth["network"].items():
        for line in (files[name] or "").splitlines()[1:]:
            yield int(namespace), line.split()


def internet(guest: Made, name: str) -> list[Internet]:
    found = []
    for namespace, fields in lines(guest, name):
        local, remote, state = end(fields[1]), end(fields[2]), int(fields[3], 16)
        protocol = name.rstrip("6")
        if protocol == "raw":  # where others have their port
            number = local.port
            assert number is not None
            protocol = {1: "icmp", 58: "icmpv6"}.get(number, str(number))
            local = local._replace(port=None)
        any_address = remote.address in ("0.0.0.0", "::")
        if not remote.port:
            remote = End(None if any_address else remote.address, None)
        named = "UNCONNECTED" if state == 7 and protocol != "tcp" else STATES[state]
        family = "AF_INET6" if name.endswith("6") else "AF_INET"
        inode = int(fields[9]) or None
        found.append(Internet(namespace, family, protocol, local, remote, named, inode))
    return found


def rows_of(dump: Dump, *families: str) -> list[SocketRow]:
    """Each socket once, however many descriptors lead to it."""
    found = {row.address: row for row in dump.table("sockets") if row.family in families}
    assert not [problem for problem in dump.problems if problem.table == "sockets"]
    return list(found.values())


def internet_rows(dump: Dump, name: str) -> list[Internet]:
    """The rows that a file of /proc/net shows: what is not bound to a port is in none of them."""
    found = []
    raw, protocol = name.startswith("raw"), name.rstrip("6")
    for row in rows_of(dump, "AF_INET6" if name.endswith("6") else "AF_INET"):
        wanted = row.type == "raw" if raw else row.protocol == protocol and row.type != "raw"
        if not wanted or (not raw and row.local_port is None) or row.state == "CLOSE":
            continue
        assert row.network_namespace is not None
        assert row.protocol is not None
        assert row.state is not None
        ends = End(row.local_address, row.local_port), End(row.remote_address, row.remote_port)
        found.append(Internet(row.network_namespace, row.family, row.protocol, *ends, row.state, row.inode))
    return found


def ordered(found: Iterable[Any]) -> list[Any]:
    return sorted(found, key=repr)


@pytest.fixture(params=[True, False], ids=["", "without processes"])
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether descriptors lead to sockets; without them, only the kernel's own tables do."""
    if not request.param:
        monkeypatch.setattr(sockets, "_held", lambda _: iter(()))
    return bool(request.param)


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("name", ["tcp", "tcp6", "udp", "udp6", "icmp", "raw", "raw6"])
def test_internet_sockets_are_those_of_proc(guest: Made, dump: Dump, name: str) -> None:
    truth = internet(guest, name)
    assert truth
    assert ordered(internet_rows(dump, name)) == ordered(truth)


def test_connections_that_are_over_are_remembered_without_an_owner(guest: Made, dump: Dump) -> None:
    over = [row for row in rows_of(dump, "AF_INET", "AF_INET6") if row.state == "TIME_WAIT"]
    assert {row.family for row in over} == {"AF_INET", "AF_INET6"}
    assert all(row.pid is None and row.inode is None for row in over)


def test_what_nobody_has_accepted_yet_has_no_owner(guest: Made, dump: Dump) -> None:
    there = [row for row in rows_of(dump, "AF_INET") if row.local_port == 2222]
    assert sorted((row.state or "", row.pid is None) for row in there) == [
        ("ESTABLISHED", True),
        ("LISTEN", False),
    ]


@pytest.mark.usefixtures("held")
def test_unix_sockets_are_those_of_proc(guest: Made, dump: Dump) -> None:
    truth = []
    for files in guest.truth["network"].values():
        for line in (files["unix"] or "").splitlines()[1:]:
            _, _, _, flags, kind, state, inode, *path = line.split(None, 7)
            connected = int(state) in (2, 3)  # SS_CONNECTING, of what nobody accepted yet, and SS_CONNECTED
            named = "LISTEN" if int(flags, 16) & ACCEPTS else "ESTABLISHED" if connected else "UNCONNECTED"
            truth.append((UNIX_TYPES[int(kind)], named, int(inode) or None, path[0] if path else None))
    assert len(truth) > 10
    rows = rows_of(dump, "AF_UNIX")
    assert ordered((row.type, row.state, row.inode, row.path) for row in rows) == ordered(truth)


def test_the_ends_of_unix_connections_know_each_other(guest: Made, dump: Dump) -> None:
    peers = {row.inode: row.peer_inode for row in rows_of(dump, "AF_UNIX") if row.type != "dgram"}
    pairs = {inode: peer for inode, peer in peers.items() if inode and peer}
    assert pairs
    assert {peer: inode for inode, peer in pairs.items()} == pairs


@pytest.mark.usefixtures("held")
def test_netlink_sockets_are_those_of_proc(guest: Made, dump: Dump) -> None:
    truth = {(namespace, int(fields[9])) for namespace, fields in lines(guest, "netlink")}
    assert {(row.network_namespace, row.inode) for row in rows_of(dump, "AF_NETLINK")} == truth
    numbers = {int(fields[9]): int(fields[1]) for _, fields in lines(guest, "netlink")}
    known = {socket.NETLINK_ROUTE: "route", socket.NETLINK_XFRM: "xfrm", 15: "kobject_uevent", 16: "generic"}
    for row in rows_of(dump, "AF_NETLINK"):
        assert row.inode is not None
        assert known.get(numbers[row.inode], row.protocol) == row.protocol


@pytest.mark.usefixtures("held")
def test_packet_sockets_are_those_of_proc(guest: Made, dump: Dump) -> None:
    names = {
        (int(namespace), link["ifindex"]): link["ifname"]
        for namespace, told in guest.truth["addresses"].items()
        for link in told["addr"]
    }
    truth = [
        (int(fields[8]), {"0003": "all"}.get(fields[3], fields[3]), names.get((namespace, int(fields[4]))))
        for namespace, fields in lines(guest, "packet")
    ]
    assert truth
    rows = rows_of(dump, "AF_PACKET")
    assert ordered((row.inode, row.protocol, row.interface) for row in rows) == ordered(truth)


def test_each_descriptor_that_leads_to_a_socket_is_told(guest: Made, dump: Dump) -> None:
    truth = {
        (pid, entry["fd"], int(found[1]))
        for pid, process in proc.processes(guest).items()
        for entry in process.get("fds", [])
        if pid != proc.recorder(guest) and (found := re.fullmatch(r"socket:\[(\d+)\]", entry["target"] or ""))
    }
    held = [row for row in dump.table("sockets") if row.pid not in (None, proc.recorder(guest))]
    assert {(row.pid, row.fd, row.inode) for row in held} == truth
    names = {pid: process["threads"][0]["comm"] for pid, process in proc.processes(guest).items()}
    assert all(row.process == names[row.pid] for row in held)
