"""The ``sockets`` table: who talks, or listens, to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from drgn import Object
from drgn.helpers.linux.list import list_for_each_entry

from memdump.kernel.fields import Fields
from memdump.kernel.network import network_namespaces
from memdump.kernel.problems import SMEAR
from memdump.kernel.socket_tables import SocketTables
from memdump.kernel.sockets import SocketReader
from memdump.kernel.text import decode
from memdump.tables.open_files import descriptors
from memdump.tables.schema import DETAIL, Address, table
from memdump.tables.tasks import Task, all_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel

MOST_DEVICES = 1 << 18


@dataclass(frozen=True, slots=True)
class SocketRow:
    """A socket: every descriptor that leads to one, then those that only the kernel knows."""

    pid: Annotated[
        int | None, "Process that holds it; null if none does: TIME_WAIT, not accepted yet, the kernel's own"
    ]
    process: Annotated[str | None, "Name of that process"]
    fd: Annotated[int | None, "Its descriptor there", DETAIL]
    family: Annotated[str, "AF_INET, AF_INET6, AF_UNIX, AF_NETLINK, AF_PACKET ..."]
    type: Annotated[str | None, "stream, dgram, raw, seqpacket ...", DETAIL]
    protocol: Annotated[
        str | None, "tcp, udp, icmp ...; netlink and packet sockets have other ones: route, arp ..."
    ]
    state: Annotated[
        str | None, "LISTEN, ESTABLISHED, TIME_WAIT ...; UNCONNECTED if it is not TCP and no other"
    ]
    local_address: Annotated[str | None, "IPv4 or IPv6 address; 0.0.0.0 and :: are any, null is not bound"]
    local_port: Annotated[int | None, "Local port"]
    remote_address: Annotated[str | None, "Address of the other end; null if there is none"]
    remote_port: Annotated[int | None, "Port of the other end"]
    path: Annotated[str | None, "Name of a UNIX socket; one that is no file begins with @"]
    interface: Annotated[str | None, "Interface that it is bound to: what a sniffer listens on", DETAIL]
    network_namespace: Annotated[int | None, "Inode number of the network namespace", DETAIL]
    inode: Annotated[int | None, "Inode number; null if no process can hold it, not yet or no longer", DETAIL]
    peer_inode: Annotated[int | None, "Inode number of the other end of a UNIX socket", DETAIL]
    address: Annotated[Address, "Where its struct sock is", DETAIL]


@table(SocketRow)
def sockets(kernel: Kernel) -> Iterator[SocketRow]:
    """Follow every descriptor, then go through the kernel's own tables (`memdump.kernel.socket_tables`)."""
    rows = _Rows(kernel)
    seen = set()
    for task, fd, address in _held(kernel):
        with kernel.problems.skipping("sockets", f"descriptor {fd} of process {task.pid} ({task.name})"):
            seen.add(address)
            yield rows.row(address, task, fd)
    for address in SocketTables(kernel, "sockets").addresses():
        if address not in seen:
            with kernel.problems.skipping("sockets", f"socket at {address:#x}"):
                seen.add(address)
                yield rows.row(address)


def _held(kernel: Kernel) -> Iterator[tuple[Task, int, int]]:
    """Yield each descriptor that leads to a socket: process, number, address of the ``struct sock``."""
    program = kernel.program
    operations = program["socket_file_ops"].address_
    file = Fields(program.type("struct file"), "f_op", "private_data")
    socket = Fields(program.type("struct socket"), "sk")
    for task in _descriptor_tables(kernel):
        for fd, address in descriptors(kernel, task, "sockets"):
            with kernel.problems.skipping("sockets", f"descriptor {fd} of process {task.pid} ({task.name})"):
                kind, private = file.read(program, address)
                if kind == operations:
                    yield task, fd, socket.read(program, private)[0]


def _descriptor_tables(kernel: Kernel) -> Iterator[Task]:
    """Yield each process once, and again a thread of it that has descriptors of its own."""
    seen = set()
    for task in all_tasks(kernel, "sockets"):
        key = task.group, task.struct.files.value_()
        if key not in seen:
            seen.add(key)
            yield task


class _Rows:
    """Makes rows of sockets; namespaces and interfaces are looked up once."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._reader = SocketReader(kernel, "sockets")
        self._namespaces: dict[int, int | None] = {}
        self._interfaces: dict[tuple[int, int], str] | None = None

    def row(self, address: int, task: Task | None = None, fd: int | None = None) -> SocketRow:
        found = self._reader.read(address)
        return SocketRow(
            pid=task.group if task else None,
            process=task.name if task else None,
            fd=fd,
            family=found.family,
            type=found.type,
            protocol=found.protocol,
            state=found.state,
            local_address=found.local_address,
            local_port=found.local_port,
            remote_address=found.remote_address,
            remote_port=found.remote_port,
            path=found.path,
            interface=self._interface(found.net, found.interface) if found.interface else None,
            network_namespace=self._namespace(found.net),
            inode=found.inode,
            peer_inode=found.peer_inode,
            address=address,
        )

    def _namespace(self, net: int) -> int | None:
        if net not in self._namespaces:
            try:
                found = Object(self._kernel.program, "struct net *", net).ns.inum.value_()
            except SMEAR as error:
                self._kernel.problems.add("sockets", f"network namespace at {net:#x}", error)
                found = None
            self._namespaces[net] = found
        return self._namespaces[net]

    def _interface(self, net: int, index: int) -> str:
        if self._interfaces is None:
            self._interfaces = dict(self._all_interfaces())
        return self._interfaces.get((net, index), str(index))

    def _all_interfaces(self) -> Iterator[tuple[tuple[int, int], str]]:
        problems = self._kernel.problems
        for _, net in network_namespaces(self._kernel, "sockets"):
            devices = list_for_each_entry("struct net_device", net.dev_base_head.address_of_(), "dev_list")
            for device in problems.walk("sockets", "list of interfaces", devices, MOST_DEVICES):
                with problems.skipping("sockets", f"interface at {device.value_():#x}"):
                    yield (net.value_(), device.ifindex.value_()), decode(device.name.string_())
