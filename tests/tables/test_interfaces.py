from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from drgn import Architecture, Object, Platform, Program

from memdump.tables.interfaces import flags_of

if TYPE_CHECKING:
    from memdump.dump import Dump
    from tests.lab.guests import Made


def truth_of(guest: Made) -> dict[tuple[int, int], dict[str, Any]]:
    """What ``ip -d addr`` said of each interface, by namespace and index."""
    return {
        (int(namespace), link["ifindex"]): link
        for namespace, told in guest.truth["addresses"].items()
        for link in told["addr"]
    }


def rows_of(dump: Dump) -> dict[tuple[int, int], Any]:
    return {(row.network_namespace, row.index): row for row in dump.table("interfaces")}


@pytest.mark.lab
def test_interfaces_are_those_that_ip_shows(guest: Made, dump: Dump) -> None:
    truth = truth_of(guest)
    assert len({namespace for namespace, _ in truth}) > 1
    assert {
        key: (row.name, row.state, row.mac, row.mtu, row.type, row.kind, row.master)
        for key, row in rows_of(dump).items()
    } == {
        key: (
            link["ifname"],
            link["operstate"],
            link.get("address"),
            link["mtu"],
            link["link_type"],
            link.get("linkinfo", {}).get("info_kind"),
            link.get("master"),
        )
        for key, link in truth.items()
    }


@pytest.mark.lab
def test_addresses_are_those_that_ip_shows(guest: Made, dump: Dump) -> None:
    assert {key: row.addresses.split() for key, row in rows_of(dump).items()} == {
        key: [f"{address['local']}/{address['prefixlen']}" for address in link["addr_info"]]
        for key, link in truth_of(guest).items()
    }


@pytest.mark.lab
def test_flags_are_those_that_ip_shows(guest: Made, dump: Dump) -> None:
    assert {key: row.flags.split(",") for key, row in rows_of(dump).items()} == {
        key: link["flags"] for key, link in truth_of(guest).items()
    }


@pytest.mark.lab
def test_promiscuous_interfaces_are_told(guest: Made, dump: Dump) -> None:
    truth = {key: link["promiscuity"] > 0 for key, link in truth_of(guest).items()}
    assert True in truth.values()
    assert {key: row.promiscuous for key, row in rows_of(dump).items()} == truth


def device(flags: int, state: int, operstate: int) -> Any:
    """What of a ``struct net_device`` says how it stands."""
    program = Program(Platform(Architecture.X86_64))
    values = {"flags": flags, "gflags": 0, "state": state, "operstate": operstate}
    return SimpleNamespace(**{name: Object(program, "int", value) for name, value in values.items()})


def test_a_cable_that_is_not_plugged_in_is_told_as_ip_does() -> None:
    up_and_broadcast, started_without_carrier, down = 0x3, 0x5, 2
    assert list(flags_of(device(up_and_broadcast, started_without_carrier, down))) == [
        "NO-CARRIER",
        "BROADCAST",
        "UP",
    ]
