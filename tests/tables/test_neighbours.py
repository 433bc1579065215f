from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from memdump.dump import Dump
    from tests.lab.guests import Made


@pytest.mark.lab
def test_neighbours_are_those_that_ip_shows(guest: Made, dump: Dump) -> None:
    truth = sorted(
        (int(namespace), found["dst"], found["dev"], found.get("lladdr") or "", *found["state"])
        for namespace, told in guest.truth["addresses"].items()
        for found in told["neigh_nud_all"]
    )
    assert {"PERMANENT", "NOARP"} <= {state for *_, state in truth}
    assert truth == sorted(
        (row.network_namespace, row.ip, row.interface, row.mac or "", row.state)
        for row in dump.table("neighbours")
    )
