from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st

from memdump.kernel.network import ip_address, link_address


@given(st.binary(min_size=4, max_size=4))
def test_an_ipv4_address_is_written_as_the_c_library_does(data: bytes) -> None:
    assert ip_address(data) == socket.inet_ntop(socket.AF_INET, data)


@given(
    st.one_of(
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=4, max_size=4).map(lambda x: bytes(10) + b"\xff\xff" + x),
    )
)
def test_an_ipv6_address_is_written_as_the_c_library_does(data: bytes) -> None:
    if data[:12] != bytes(12):  # ::1.2.3.4 and ::102:304 are both right
        assert ip_address(data) == socket.inet_ntop(socket.AF_INET6, data)


def test_an_ethernet_address_is_written_with_colons() -> None:
    assert link_address(bytes.fromhex("0200 00c0 ffee")) == "02:00:00:c0:ff:ee"


def test_the_link_address_of_a_tunnel_is_an_ip_address() -> None:
    assert link_address(bytes([192, 0, 2, 1])) == "192.0.2.1"


def test_what_has_no_link_address_has_none() -> None:
    assert link_address(b"") is None
