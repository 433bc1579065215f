from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.kernel.problems import SMEAR, Problems
from memdump.kernel.sockets import SocketReader
from tests.kernel.forged import BASE, Forged

TYPES = {
    "struct possible_net": {"net": "u64"},
    "struct sock_common": {
        "skc_daddr": "u32",
        "skc_rcv_saddr": "u32",
        "skc_dport": "u16",
        "skc_num": "u16",
        "skc_family": "u16",
        "skc_state": "u8",
        "skc_bound_dev_if": "u32",
        "skc_net": "struct possible_net",
        "skc_v6_daddr": "char [16]",
        "skc_v6_rcv_saddr": "char [16]",
    },
    "struct sock": {
        "__sk_common": "struct sock_common",
        "sk_type": "u16",
        "sk_protocol": "u16",
        "sk_socket": "u64",
    },
    "struct inet_timewait_sock": {"__tw_common": "struct sock_common", "tw_substate": "u8"},
    "struct unix_sock": {"sk": "struct sock", "addr": "u64", "peer": "u64"},
    "struct unix_address": {"refcnt": "u32", "len": "u32", "name": "char [110]"},
    "struct inode": {"i_ino": "u64"},
    "struct socket_alloc": {"socket": "char [64]", "vfs_inode": "struct inode"},
}
LOCALHOST = int.from_bytes(bytes([127, 0, 0, 1]), "little")
PORT = int.from_bytes((443).to_bytes(2, "big"), "little")
UNIX, INET, NETLINK = 1, 2, 16
ESTABLISHED, FIN_WAIT2, TIME_WAIT, NEW_SYN_RECV = 1, 5, 6, 12


def reader(forged: Forged) -> tuple[SocketReader, Problems]:
    kernel: Any = SimpleNamespace(program=forged.program, problems=Problems())
    return SocketReader(kernel, "sockets"), kernel.problems


def forge(forged: Forged, type_name: str, family: int, state: int, **members: int) -> int:
    """The address of a socket from 127.0.0.1:8080 to 127.0.0.1:443; all types begin with the same members."""
    address = forged.put(type_name, **members)
    return forged.put(
        "struct sock_common",
        address,
        skc_family=family,
        skc_state=state,
        skc_rcv_saddr=LOCALHOST,
        skc_daddr=LOCALHOST,
        skc_num=8080,
        skc_dport=PORT,
    )


def test_a_half_open_connection_has_no_more_than_its_ends() -> None:
    forged = Forged(TYPES)
    address = forge(forged, "struct sock_common", INET, NEW_SYN_RECV)
    found = reader(forged)[0].read(address)
    assert (found.protocol, found.state, found.inode) == ("tcp", "SYN_RECV", None)
    assert (found.local_address, found.local_port) == ("127.0.0.1", 8080)
    assert (found.remote_address, found.remote_port) == ("127.0.0.1", 443)


@pytest.mark.parametrize(("state", "name"), [(FIN_WAIT2, "FIN_WAIT2"), (TIME_WAIT, "TIME_WAIT")])
def test_what_is_left_of_a_connection_says_in_which_state_it_waits(state: int, name: str) -> None:
    forged = Forged(TYPES)
    address = forge(forged, "struct inet_timewait_sock", INET, TIME_WAIT, tw_substate=state)
    assert reader(forged)[0].read(address).state == name


def test_a_netlink_socket_that_was_disconnected_is_not_connected() -> None:
    forged = Forged(TYPES)
    address = forge(forged, "struct sock", NETLINK, 0)
    assert reader(forged)[0].read(address).state == "UNCONNECTED"


def test_a_unix_socket_without_the_rest_of_it_is_told_and_noted() -> None:
    forged = Forged(TYPES)
    gone = BASE + (1 << 20)
    address = forge(forged, "struct unix_sock", UNIX, ESTABLISHED, addr=gone, peer=gone)
    forged.put("struct sock", address, sk_type=1, sk_socket=gone)
    socket_reader, problems = reader(forged)
    found = socket_reader.read(address)
    assert (found.type, found.state, found.path, found.inode, found.peer_inode) == (
        "stream",
        "ESTABLISHED",
        None,
        None,
        None,
    )
    assert len(problems) == 3


def test_what_has_no_family_is_no_socket() -> None:
    forged = Forged(TYPES)
    with pytest.raises(ValueError, match="family"):
        reader(forged)[0].read(forge(forged, "struct sock", 250, ESTABLISHED))


@given(st.binary(min_size=512, max_size=512), st.sampled_from([UNIX, INET, 10, NETLINK, 40]))
def test_any_memory_is_read_or_refused(memory: bytes, family: int) -> None:
    forged = Forged(TYPES, 4096)
    address = forged.allocate(512)
    forged.write(address, memory)
    forged.put("struct sock_common", address, skc_family=family)
    with contextlib.suppress(*SMEAR):
        assert reader(forged)[0].read(address).family
