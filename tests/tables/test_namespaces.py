from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from tests.tables import proc

if TYPE_CHECKING:
    from memdump.dump import Dump
    from memdump.tables.namespaces import Namespace
    from tests.lab.guests import Made


def rows(dump: Dump) -> dict[tuple[str, int], Namespace]:
    found = {(row.type, row.inode): row for row in dump.table("namespaces")}
    assert not [problem for problem in dump.problems if problem.table == "namespaces"]
    return found


def told(guest: Made) -> dict[tuple[str, int], set[int]]:
    """The processes in each namespace, by the links in /proc/PID/ns."""
    found = defaultdict(set)
    for pid, process in proc.processes(guest).items():
        for kind, inode in process["namespaces"].items():
            if kind != "pid_for_children":
                found[kind, inode].add(pid)
    return found


@pytest.mark.lab
def test_every_namespace_that_a_process_is_in_is_told(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    for key, pids in told(guest).items():
        assert found[key].first_pid == min(pids), key


@pytest.mark.lab
def test_processes_are_counted(guest: Made, dump: Dump) -> None:
    workers = sum(row.kernel_thread for row in dump.table("processes")) - sum(
        process["kernel_thread"] for process in proc.processes(guest).values()
    )
    for key, pids in told(guest).items():
        row = rows(dump)[key]
        assert row.processes == len(pids) + (workers if row.is_initial else 0), key


@pytest.mark.lab
def test_what_no_process_is_in_is_where_the_children_of_one_start(guest: Made, dump: Dump) -> None:
    started_in = {
        ("pid", process["namespaces"]["pid_for_children"])
        for process in proc.processes(guest).values()
        if "pid_for_children" in process["namespaces"]
    }
    assert {key for key in rows(dump) if key not in told(guest)} <= started_in


@pytest.mark.lab
def test_the_namespaces_of_the_first_process_are_the_initial_ones(guest: Made, dump: Dump) -> None:
    first = proc.processes(guest)[1]["namespaces"]
    initial = {row.type: row.inode for row in dump.table("namespaces") if row.is_initial}
    assert initial == {kind: inode for kind, inode in first.items() if kind != "pid_for_children"}


@pytest.mark.lab
def test_a_container_has_its_own(guest: Made, dump: Dump) -> None:
    container = proc.processes(guest)[proc.role(guest, "container")]["namespaces"]
    for kind in ("mnt", "net", "uts", "ipc", "cgroup"):
        assert not rows(dump)[kind, container[kind]].is_initial
