from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.tables import proc

if TYPE_CHECKING:
    from memdump.dump import Dump
    from tests.lab.guests import Made


@pytest.mark.lab
def test_users_and_their_processes_are_as_in_status(guest: Made, dump: Dump) -> None:
    real: Counter[int] = Counter()
    effective: Counter[int] = Counter()
    groups: dict[int, set[int]] = {}
    first: dict[int, int] = {}
    for pid, told in sorted(proc.processes(guest).items()):
        if told["kernel_thread"]:
            continue
        status = proc.status(told["status"])
        uid, euid, *_ = map(int, status["Uid"].split())
        gid, egid, *_ = map(int, status["Gid"].split())
        real[uid] += 1
        effective[euid] += 1
        for user in {uid, euid}:
            groups.setdefault(user, set()).update({gid, egid}, map(int, status["Groups"].split()))
            first.setdefault(user, pid)
    found = {row.uid: row for row in dump.table("users")}
    assert not [problem for problem in dump.problems if problem.table == "users"]
    assert set(found) == {*real, *effective}
    for uid, row in found.items():
        assert (row.processes, row.effective_processes) == (real[uid], effective[uid])
        assert row.groups == ",".join(map(str, sorted(groups[uid])))
        assert row.first_pid == first[uid]


@pytest.mark.lab
def test_a_user_in_effect_only_is_told(guest: Made, dump: Dump) -> None:
    (row,) = [row for row in dump.table("users") if row.uid == 33]
    assert (row.processes, row.effective_processes) == (0, 1)
    assert row.first_pid == proc.role(guest, "effective")
