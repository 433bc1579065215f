from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tables import proc

if TYPE_CHECKING:
    from memdump.dump import Dump
    from memdump.tables.memory_maps import Mapping
    from tests.lab.guests import Made


def rows(dump: Dump) -> dict[int, list[Mapping]]:
    found: dict[int, list[Mapping]] = {}
    for row in dump.table("memory_maps"):
        found.setdefault(row.pid, []).append(row)
    assert not [problem for problem in dump.problems if problem.table == "memory_maps"]
    return found


def as_told(row: Mapping) -> proc.Mapping:
    path = row.path
    if path is not None and row.deleted:
        path += proc.DELETED
    return proc.Mapping(row.start, row.end, row.permissions, row.offset, row.inode, path)


@pytest.mark.lab
def test_mappings_are_those_of_maps(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    for pid, told in proc.processes(guest).items():
        if pid != proc.recorder(guest):
            expected = [
                mapping._replace(path=mapping.path and proc.unescaped(mapping.path))
                for mapping in proc.maps(told.get("maps") or "")
            ]
            assert [as_told(row) for row in found.get(pid, [])] == expected


@pytest.mark.lab
def test_resident_bytes_are_the_rss_of_smaps(guest: Made, dump: Dump) -> None:
    found = rows(dump)
    for pid, told in proc.processes(guest).items():
        if pid != proc.recorder(guest):
            expected = proc.resident(told.get("smaps") or "")
            inside = [row for row in found.get(pid, []) if row.start in expected]
            assert {row.start: row.resident_bytes for row in inside} == {
                row.start: expected[row.start] for row in inside
            }, told["stat"]


@pytest.mark.lab
def test_injected_code_stands_out(guest: Made, dump: Dump) -> None:
    pid = proc.role(guest, "mappings")
    code = [row for row in rows(dump)[pid] if row.permissions == "rwxp"]
    assert [(row.path, row.end - row.start, row.resident_bytes) for row in code] == [
        (None, 3 * 4096, 2 * 4096)
    ]


@pytest.mark.lab
def test_a_file_that_is_gone_is_told_though_it_is_mapped(guest: Made, dump: Dump) -> None:
    pid = proc.role(guest, "mappings")
    gone = [row for row in rows(dump)[pid] if row.path and row.path.endswith("/mapped and gone")]
    assert [(row.deleted, row.offset, row.permissions) for row in gone] == [(True, 4096, "rw-s")]
