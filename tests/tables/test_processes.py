from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.tables import processes as table
from tests.tables import proc

if TYPE_CHECKING:
    from memdump.dump import Dump
    from memdump.tables.processes import Process
    from tests.lab.guests import Made

TICKS = 100
"""Per second: ``sysconf(_SC_CLK_TCK)`` of every Linux on x86-64."""


def rows(dump: Dump) -> dict[int, Process]:
    found = {row.pid: row for row in dump.table("processes")}
    assert not [problem for problem in dump.problems if problem.table == "processes"]
    return found


@pytest.mark.lab
def test_every_process_is_there_once(guest: Made, dump: Dump) -> None:
    found = [row.pid for row in dump.table("processes")]
    assert found == sorted(set(found))
    told = proc.processes(guest)
    assert set(told) <= set(found)
    extra = [row for row in dump.table("processes") if row.pid not in told]
    assert all(row.kernel_thread for row in extra)


@pytest.mark.lab
def test_numbers_and_names_are_as_in_stat(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    for pid, told in proc.processes(guest).items():
        row, stat = found[pid], proc.stat(told["stat"])
        assert (row.name, row.ppid) == (stat[2], int(stat[4]))
        assert row.session == int(stat[6])
        assert row.kernel_thread == told["kernel_thread"]
        # A thread of the kernel may run at any moment.
        if pid != proc.recorder(guest) and not (row.kernel_thread and "R" in (row.state, stat[3])):
            assert row.state == stat[3], row


@pytest.mark.lab
def test_the_terminal_is_that_of_its_device_number(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    for pid, told in proc.processes(guest).items():
        device = int(proc.stat(told["stat"])[7])
        assert found[pid].tty == terminal(device >> 8 & 0xFFF, device & 0xFF | device >> 12 & 0xFFF00)


def terminal(major: int, minor: int) -> str | None:
    """What ``Documentation/admin-guide/devices.txt`` calls a terminal."""
    if major == 4:
        return f"ttyS{minor - 64}" if minor >= 64 else f"tty{minor}"
    return f"pts/{minor}" if major == 136 else None


@pytest.mark.lab
def test_users_and_groups_are_as_in_status(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    for pid, told in proc.processes(guest).items():
        status = proc.status(told["status"])
        uid, euid, *_ = map(int, status["Uid"].split())
        gid = int(status["Gid"].split()[0])
        row = found[pid]
        assert (row.uid, row.gid, row.euid) == (uid, gid, euid)


@pytest.mark.lab
def test_start_times_are_those_of_stat_to_the_tick(guest: Made, dump: Dump) -> None:
    clock = guest.truth["clock"]
    booted = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
        microseconds=(clock["realtime_ns"] - clock["boottime_ns"]) / 1000
    )
    found = rows(dump)
    for pid, told in proc.processes(guest).items():
        started = found[pid].start_time
        assert started is not None
        expected = booted + timedelta(seconds=int(proc.stat(told["stat"])[22]) / TICKS)
        # stat gives whole ticks, and reading two clocks takes a moment.
        assert timedelta(milliseconds=-5) <= started - expected <= timedelta(milliseconds=15)


@pytest.mark.lab
def test_programs_are_where_the_links_exe_lead(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    for pid, told in proc.processes(guest).items():
        row, exe = found[pid], told["exe"]
        if exe is None:
            assert (row.executable, row.deleted_executable) == (None, None)
        else:
            assert row.deleted_executable == exe.endswith(proc.DELETED)
            assert row.executable == exe.removesuffix(proc.DELETED)


@pytest.mark.lab
def test_a_program_that_was_removed_or_never_had_a_file_is_told(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    look_alike, memfd = found[proc.role(guest, "look_alike")], found[proc.role(guest, "memfd")]
    assert (look_alike.executable, look_alike.deleted_executable) == ("/dev/shm/.kw", True)
    assert (memfd.executable, memfd.deleted_executable) == ("/memfd:payload", True)
    assert not look_alike.kernel_thread


@pytest.mark.lab
def test_command_lines_are_those_of_cmdline(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    for pid, told in proc.processes(guest).items():
        arguments = told["cmdline"].rstrip("\0").split("\0")
        line = found[pid].command_line
        if told["kernel_thread"] or told["exe"] is None:
            assert line is None
        elif len(arguments) == 1:
            assert line == arguments[0]
        else:
            assert line is not None
            assert shlex.split(line) == arguments


@pytest.mark.lab
def test_cgroups_are_those_of_the_unified_hierarchy(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    for pid, told in proc.processes(guest).items():
        unified = re.findall(r"^0::(.*)$", told["cgroup"], re.MULTILINE)
        assert [found[pid].cgroup] == [path.removesuffix(proc.DELETED) for path in unified]


@pytest.mark.lab
def test_what_runs_in_a_container_has_its_id(guest: Made, dump: Dump) -> None:
    inside = {row.pid for row in dump.table("processes") if row.container_id is not None}
    told = {pid for pid, found in proc.processes(guest).items() if "docker-" in found["cgroup"]}
    assert inside == told
    assert {row.container_id for row in dump.table("processes")} == {
        None,
        guest.truth["scenario"]["container"],
    }


@pytest.mark.lab
def test_pid_namespaces_are_those_of_the_links(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    for pid, told in proc.processes(guest).items():
        if "pid" in told["namespaces"]:
            assert found[pid].pid_namespace == told["namespaces"]["pid"]


@pytest.mark.lab
def test_a_torn_process_leaves_the_others(dump: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows(dump)
    torn = sorted(whole)[len(whole) // 2]
    credentials = table._credentials

    def tear(struct: Any) -> tuple[int, int, int]:
        if struct.pid.value_() == torn:
            raise ValueError("torn")
        return credentials(struct)

    monkeypatch.setattr(table, "_credentials", tear)
    found = {row.pid: row for row in dump.table("processes")}
    assert set(found) == set(whole)
    assert (found[torn].uid, found[torn].name) == (None, whole[torn].name)
    assert any(str(torn) in problem.place for problem in dump.problems)


@given(st.lists(st.text(st.characters(exclude_characters="\0")), min_size=2))
def test_quoted_arguments_are_what_a_shell_would_make_of_them(arguments: list[str]) -> None:
    assert shlex.split(" ".join(map(table._quoted, arguments))) == arguments
