from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.tables.capabilities import NAMES, names
from tests.tables import proc

if TYPE_CHECKING:
    from memdump.dump import Dump
    from tests.lab.guests import Made

SETS = {
    "effective": "CapEff",
    "permitted": "CapPrm",
    "inheritable": "CapInh",
    "bounding": "CapBnd",
    "ambient": "CapAmb",
}


def number(text: str, everything: int) -> int:
    if text == "all":
        return everything
    return sum(1 << NAMES.index(name) for name in text.split(",") if name)


@pytest.mark.lab
def test_the_sets_are_as_in_status(guest: Made, dump: Dump) -> None:
    found = {row.pid: row for row in dump.table("capabilities")}
    assert not [problem for problem in dump.problems if problem.table == "capabilities"]
    told = {pid: process for pid, process in proc.processes(guest).items() if not process["kernel_thread"]}
    everything = int(proc.status(told[1]["status"])["CapBnd"], 16)
    for pid, process in told.items():
        status = proc.status(process["status"])
        expected = {name: int(status[field], 16) for name, field in SETS.items()}
        if expected["permitted"] | expected["inheritable"] | expected["ambient"]:
            row = found.pop(pid)
            assert {name: number(getattr(row, name), everything) for name in SETS} == expected
            assert (row.uid, row.euid) == tuple(map(int, status["Uid"].split()[:2]))
            assert row.user_namespace == process["namespaces"]["user"]
    assert not found


@pytest.mark.lab
def test_a_user_with_capabilities_is_told(guest: Made, dump: Dump) -> None:
    pid = proc.role(guest, "unprivileged")
    (row,) = [row for row in dump.table("capabilities") if row.pid == pid]
    assert (row.uid, row.ambient) == (1000, "net_raw")
    assert row.bounding == "chown,net_bind_service,net_raw"


@pytest.mark.lab
def test_the_names_are_in_the_order_of_the_kernels_numbers(guest: Made, dump: Dump) -> None:
    """The kernel's own names are in the BTF of no release; setpriv(1) knows them and was told these three."""
    pid = proc.role(guest, "unprivileged")
    bounding = int(proc.status(proc.processes(guest)[pid]["status"])["CapBnd"], 16)
    assert names(bounding, 0) == "chown,net_bind_service,net_raw"


@given(st.integers(0, (1 << 64) - 1))
def test_any_set_has_a_name_for_each_bit(held: int) -> None:
    found = names(held, (1 << 41) - 1)
    assert len([name for name in found.split(",") if name]) == (1 if found == "all" else held.bit_count())
