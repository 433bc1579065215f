"""What a socket is: read from its ``struct sock``, whatever its family (``include/net/sock.h``)."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from drgn import offsetof

from memdump.kernel.fields import Fields
from memdump.kernel.network import ip_address
from memdump.kernel.text import decode, decode_name

if TYPE_CHECKING:
    from drgn import Type

    from memdump.kernel.kernel import Kernel

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_VSOCK = 1, 2, 10, 16, 17, 40
FAMILIES = {
    AF_UNIX: "AF_UNIX",
    AF_INET: "AF_INET",
    3: "AF_AX25",
    4: "AF_IPX",
    5: "AF_APPLETALK",
    6: "AF_NETROM",
    9: "AF_X25",
    AF_INET6: "AF_INET6",
    11: "AF_ROSE",
    15: "AF_KEY",
    AF_NETLINK: "AF_NETLINK",
    AF_PACKET: "AF_PACKET",
    21: "AF_RDS",
    24: "AF_PPPOX",
    26: "AF_LLC",
    29: "AF_CAN",
    30: "AF_TIPC",
    31: "AF_BLUETOOTH",
    33: "AF_RXRPC",
    35: "AF_PHONET",
    36: "AF_IEEE802154",
    38: "AF_ALG",
    39: "AF_NFC",
    AF_VSOCK: "AF_VSOCK",
    41: "AF_KCM",
    42: "AF_QIPCRTR",
    43: "AF_SMC",
    44: "AF_XDP",
    45: "AF_MCTP",
}
"""``include/linux/socket.h``: a socket of another family is none, but torn memory."""
TYPES = {1: "stream", 2: "dgram", 3: "raw", 4: "rdm", 5: "seqpacket", 6: "dccp", 10: "packet"}
"""``enum sock_type`` of ``include/linux/net.h``."""
SOCK_STREAM, SOCK_RAW, TCP = 1, 3, 6
PROTOCOLS = {
    0: "ip",
    1: "icmp",
    2: "igmp",
    4: "ipip",
    TCP: "tcp",
    17: "udp",
    33: "dccp",
    41: "ipv6",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    89: "ospf",
    103: "pim",
    115: "l2tp",
    132: "sctp",
    136: "udplite",
    255: "raw",
    256: "smc",
    262: "mptcp",
}
"""``IPPROTO_*`` of ``include/uapi/linux/in.h``."""
NETLINK_PROTOCOLS = {
    0: "route",
    1: "unused",
    2: "usersock",
    3: "firewall",
    4: "sock_diag",
    5: "nflog",
    6: "xfrm",
    7: "selinux",
    8: "iscsi",
    9: "audit",
    10: "fib_lookup",
    11: "connector",
    12: "netfilter",
    13: "ip6_fw",
    14: "dnrtmsg",
    15: "kobject_uevent",
    16: "generic",
    18: "scsitransport",
    19: "ecryptfs",
    20: "rdma",
    21: "crypto",
    22: "smc",
}
"""``NETLINK_*`` of ``include/uapi/linux/netlink.h``."""
ETHERNET_PROTOCOLS = {
    0x0003: "all",
    0x0800: "ip",
    0x0806: "arp",
    0x86DD: "ipv6",
    0x888E: "pae",
    0x88CC: "lldp",
}
"""``ETH_P_*`` of ``include/uapi/linux/if_ether.h``."""

ESTABLISHED, TIME_WAIT, CLOSE, NEW_SYN_RECV = 1, 6, 7, 12
STATES = {
    ESTABLISHED: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    TIME_WAIT: "TIME_WAIT",
    CLOSE: "CLOSE",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    10: "LISTEN",
    11: "CLOSING",
    NEW_SYN_RECV: "SYN_RECV",
}
"""``include/net/tcp_states.h``, which other protocols borrow; to users, the last is the third."""
BORROWERS = (AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_VSOCK)
ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with, never bound to

FAMILY_SIZE, LONGEST_UNIX_ADDRESS = 2, 110
"""A ``struct sockaddr_un`` begins with the family; and its size."""


class Socket(NamedTuple):
    """A socket; what it has not, or what cannot be read, is None."""

    family: str
    type: str | None = None
    protocol: str | None = None
    state: str | None = None
    local_address: str | None = None
    local_port: int | None = None
    remote_address: str | None = None
    remote_port: int | None = None
    path: str | None = None
    interface: int = 0
    """Number of the interface that it is bound to; zero if to none."""
    net: int = 0
    """Address of its ``struct net``."""
    inode: int | None = None
    """Of the file that it is to processes; None if no process has it, or not yet."""
    peer_inode: int | None = None
    """That of the other end of a UNIX socket."""


class SocketReader:
    """Reads sockets by their address for a table; what is missing of one is noted."""

    def __init__(self, kernel: Kernel, table: str) -> None:
        self._table = table
        self._reading = kernel.problems.reading
        self._program = program = kernel.program
        self._sock = program.type("struct sock")
        self._common = Fields(
            program.type("struct sock_common"),
            *("skc_family", "skc_state", "skc_num", "skc_dport", "skc_bound_dev_if", "skc_net.net"),
        )
        self._whole = Fields(self._sock, "sk_type", "sk_protocol", "sk_socket")
        self._substate = Fields(program.type("struct inet_timewait_sock"), "tw_substate")
        self._addresses = _addresses(program.type("struct sock_common"))

    def read(self, address: int) -> Socket:
        """The socket whose ``struct sock`` (or a smaller one that begins the same) is at ``address``.

        Raises `drgn.FaultError`, and `ValueError` for what is none.
        """
        common = self._program.read(address, self._common.size)
        family, state, port, remote_port, interface, net = self._common.unpack(common)
        if family not in FAMILIES:
            raise ValueError(f"no socket at {address:#x}: its family would be {family}")
        found = Socket(FAMILIES[family], interface=max(interface, 0), net=net)
        if family in self._addresses:
            ports = port, int.from_bytes(remote_port.to_bytes(2, "little"), "big")
            return self._internet(found, address, state, self._ends(family, common), ports)
        type_, protocol, socket = self._whole.read(self._program, address)
        found = found._replace(type=_type(type_), state=_state(family, state), inode=self._inode(socket))
        if family == AF_UNIX:
            return self._unix(found, address)
        if family == AF_PACKET:
            return self._packet(found, address)
        known = NETLINK_PROTOCOLS if family == AF_NETLINK else {}
        return found._replace(protocol=known.get(protocol, str(protocol)))

    def _internet(
        self, found: Socket, address: int, state: int, ends: tuple[str, str], ports: tuple[int, int]
    ) -> Socket:
        """Of a connection that was closed, or is not yet open, there is only what all sockets begin with."""
        type_, protocol = SOCK_STREAM, TCP
        if state == TIME_WAIT:
            (state,) = self._substate.read(self._program, address)
        elif state != NEW_SYN_RECV:
            type_, protocol, socket = self._whole.read(self._program, address)
            found = found._replace(inode=self._inode(socket))
        (local, remote), (local_port, remote_port) = ends, ports
        raw = type_ == SOCK_RAW  # It has no ports: where they are, its protocol stands.
        return found._replace(
            type=_type(type_),
            protocol=PROTOCOLS.get(protocol, str(protocol)),
            state=STATES.get(state, str(state)) if protocol == TCP else _state(AF_INET, state),
            local_address=local if local_port else None,
            local_port=None if raw else local_port or None,
            remote_address=remote if remote_port or remote not in ANY else None,
            remote_port=None if raw else remote_port or None,
        )

    def _ends(self, family: int, common: bytes) -> tuple[str, str]:
        local, remote, size = self._addresses[family]
        return ip_address(common[local : local + size]), ip_address(common[remote : remote + size])

    def _inode(self, socket: int) -> int | None:
        if not socket:
            return None
        found = self._reading(
            self._table, f"inode of socket {socket:#x}", self._inode_number.read, self._program, socket
        )
        return found[0] if found else None

    @cached_property
    def _inode_number(self) -> Fields:
        return Fields(self._program.type("struct socket_alloc"), "vfs_inode.i_ino")

    def _unix(self, found: Socket, address: int) -> Socket:
        name, peer = self._unix_fields.read(self._program, address)
        place = f"UNIX socket at {address:#x}"
        path = self._reading(self._table, f"name of {place}", self._path, name) if name else None
        socket = self._reading(self._table, f"peer of {place}", self._socket_of, peer) if peer else None
        return found._replace(path=path, peer_inode=self._inode(socket or 0))

    def _socket_of(self, sock: int) -> int:
        return self._whole.read(self._program, sock)[2]

    @cached_property
    def _unix_fields(self) -> Fields:
        return Fields(self._program.type("struct unix_sock"), "addr", "peer")

    def _path(self, address: int) -> str:
        """The name of a UNIX socket, as ``/proc/net/unix`` has it: one that is no file begins with @."""
        (length,) = self._unix_address.read(self._program, address)
        if not FAMILY_SIZE <= length <= LONGEST_UNIX_ADDRESS:
            raise ValueError(f"a UNIX address of {length} bytes")
        start = address + offsetof(self._program.type("struct unix_address"), "name") + FAMILY_SIZE
        data = self._program.read(start, length - FAMILY_SIZE)
        if data.startswith(b"\0"):
            return decode(data.replace(b"\0", b"@"))
        return decode_name(data)

    @cached_property
    def _unix_address(self) -> Fields:
        return Fields(self._program.type("struct unix_address"), "len")

    def _packet(self, found: Socket, address: int) -> Socket:
        """What it listens to is an Ethernet protocol; it is bound in its own way."""
        number, interface = self._packet_fields.read(self._program, address)
        protocol = int.from_bytes(number.to_bytes(2, "little"), "big")
        name = ETHERNET_PROTOCOLS.get(protocol, f"{protocol:#06x}") if protocol else None
        return found._replace(protocol=name, interface=max(interface, 0))

    @cached_property
    def _packet_fields(self) -> Fields:
        return Fields(self._program.type("struct packet_sock"), "num", "ifindex")


def _addresses(common: Type) -> dict[int, tuple[int, int, int]]:
    """Where the local and the remote address are, and how long, for each internet family."""
    found = {AF_INET: (offsetof(common, "skc_rcv_saddr"), offsetof(common, "skc_daddr"), 4)}
    if common.has_member("skc_v6_daddr"):
        found[AF_INET6] = (offsetof(common, "skc_v6_rcv_saddr"), offsetof(common, "skc_v6_daddr"), 16)
    return found


def _type(number: int) -> str:
    return TYPES.get(number, str(number))


def _state(family: int, number: int) -> str:
    """The state of what is not TCP."""
    if number == CLOSE or (family == AF_NETLINK and not number):
        return "UNCONNECTED"
    return STATES.get(number, str(number)) if family in BORROWERS else str(number)
