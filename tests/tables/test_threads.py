from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tables import proc

if TYPE_CHECKING:
    from memdump.dump import Dump
    from memdump.tables.threads import Thread
    from tests.lab.guests import Made


def rows(dump: Dump) -> dict[tuple[int, int], Thread]:
    found = {(row.pid, row.tid): row for row in dump.table("threads")}
    assert not [problem for problem in dump.problems if problem.table == "threads"]
    return found


@pytest.mark.lab
def test_the_threads_of_each_process_are_those_of_its_task_folder(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    for pid, told in proc.processes(guest).items():
        inside = {tid: row.name for (group, tid), row in found.items() if group == pid}
        assert inside == {thread["tid"]: thread["comm"] for thread in told["threads"]}


@pytest.mark.lab
def test_states_users_and_processors_are_as_in_stat_and_status(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    for pid, told in proc.processes(guest).items():
        for thread in told["threads"]:
            row, stat = found[pid, thread["tid"]], proc.stat(thread["stat"])
            assert row.process == proc.stat(told["stat"])[2]
            assert row.kernel_thread == told["kernel_thread"]
            assert row.uid == int(proc.status(thread["status"])["Uid"].split()[0])
            if pid != proc.recorder(guest) and not told["kernel_thread"]:
                assert (row.state, row.processor) == (stat[3], int(stat[39]))


@pytest.mark.lab
def test_the_names_that_threads_gave_themselves_are_told(guest: Made, dump: Dump) -> None:
    pid = proc.role(guest, "threads")
    names = [row.name for (group, _), row in rows(dump).items() if group == pid]
    assert names == ["pool", "worker-1", "worker two", "\udcffworker", "fifteen-bytes-x"]


@pytest.mark.lab
def test_the_first_thread_of_a_process_is_the_process(dump: Dump) -> None:
    threads = rows(dump)
    for process in dump.table("processes"):
        first = threads[process.pid, process.pid]
        assert (first.address, first.start_time) == (process.address, process.start_time)
