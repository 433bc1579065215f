from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memdump.tables.environment import variables
from tests.tables import proc

if TYPE_CHECKING:
    from memdump.dump import Dump
    from tests.lab.guests import Made


def entries(dump: Dump) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for row in dump.table("environment"):
        found.setdefault(row.pid, []).append(row.name if row.value is None else f"{row.name}={row.value}")
    assert not [problem for problem in dump.problems if problem.table == "environment"]
    return found


@pytest.mark.lab
def test_the_environment_is_that_of_environ(guest: Made, dump: Dump) -> None:
    found = entries(dump)
    for pid, told in proc.processes(guest).items():
        expected = [entry for entry in (told["environ"] or "").split("\0") if entry]
        assert found.get(pid, []) == expected


@pytest.mark.lab
def test_odd_values_are_kept_whole(guest: Made, dump: Dump) -> None:
    pid = proc.role(guest, "environment")
    found = {row.name: row.value for row in dump.table("environment") if row.pid == pid}
    assert found == {
        "SECRET_TOKEN": "hunter2",
        "EMPTY": "",
        "NOT_UTF8": "\udcff\udcfe",
        "ESCAPE": "\x1b]0;owned\x07",
        "LINES": "one\ntwo",
        "LONG": "v" * 6000,
    }


@pytest.mark.lab
def test_a_process_without_an_environment_has_no_rows(guest: Made, dump: Dump) -> None:
    pid = proc.role(guest, "no_environment")
    assert pid not in entries(dump)


def test_a_name_ends_at_the_first_equals_sign() -> None:
    block = b"OPTIONS=a=b\0EMPTY=\0\0!!!\0=odd\0\xff=\xfe\0CUT=o"
    assert list(variables(block)) == [
        ("OPTIONS", "a=b"),
        ("EMPTY", ""),
        ("!!!", None),
        ("", "odd"),
        ("\udcff", "\udcfe"),
        ("CUT", "o"),
    ]
