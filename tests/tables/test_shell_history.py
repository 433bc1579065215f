from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memdump.dump import Dump
    from tests.lab.guests import Made


def test_every_shell_remembers_what_its_own_history_command_told(guest: Made, dump: Dump) -> None:
    """Bash was asked for its history as the last command; a script's bash remembers nothing."""
    found: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for row in dump.table("shell_history"):
        assert row.shell == "bash"
        found[row.pid].append((int(row.time.timestamp()), row.command))
    told = {
        int(pid): [(entry["time"], entry["command"]) for entry in entries]
        for pid, entries in guest.truth["scenario"]["history"].items()
        if entries
    }
    assert found == told


def test_the_history_is_in_the_image_that_was_taken_from_inside_too(guest: Made, lime_dump: Dump) -> None:
    told = guest.truth["scenario"]["history"]
    found = [(str(row.pid), row.command) for row in lime_dump.table("shell_history")]
    assert found == [(pid, entry["command"]) for pid in sorted(told, key=int) for entry in told[pid]]
