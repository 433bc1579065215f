"""The parts of the triage screen that judge: what stands out, and which processes are shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.report.styled import Span, render
from memdump.report.text import width
from memdump.report.triage.marks import marks, stems
from memdump.report.triage.tree import ancestors, choose, grow, walk

START = datetime(2024, 5, 1, tzinfo=UTC)


def process(pid: int, ppid: int = 1, name: str | None = "sh", **more: Any) -> Any:
    facts: dict[str, Any] = {
        "address": 0xFFFF888000000000 + pid,
        "command_line": name,
        "executable": f"/usr/bin/{name}",
        "uid": 0,
        "euid": 0,
        "kernel_thread": False,
        "deleted_executable": False,
        "tty": None,
        "start_time": START + timedelta(seconds=pid),
    }
    return SimpleNamespace(pid=pid, ppid=ppid, name=name, **(facts | more))


def kernel_thread(pid: int, name: str) -> Any:
    return process(
        pid, 2, name, kernel_thread=True, executable=None, command_line=None, deleted_executable=None
    )


KERNEL = [kernel_thread(2, "kthreadd"), kernel_thread(9, "kworker/0:1-events"), kernel_thread(12, "kswapd0")]
KERNEL += [kernel_thread(13, "edac-poller"), kernel_thread(14, "md")]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (process(50), []),
        (process(50, deleted_executable=True), ["deleted executable"]),
        (process(50, executable="/memfd:x", deleted_executable=True), ["runs from a memfd"]),
        (process(50, name="kworker/1:2"), ["looks like a kernel thread"]),
        (process(50, name="kworker"), ["looks like a kernel thread"]),
        (process(50, name="kswapd3"), ["looks like a kernel thread"]),
        (process(50, command_line="[migration/0]"), ["looks like a kernel thread"]),
        (process(50, command_line="[kworker/u8:1] --quiet"), ["looks like a kernel thread"]),
        (process(50, command_line="[ -e /tmp ]"), []),
        (process(50, ppid=2), ["looks like a kernel thread"]),
        (process(50, name="edac-util"), []),
        (process(50, name="md5sum"), []),
        (process(50, name="md"), []),
        (process(50, ppid=40, uid=1000, euid=1000), []),
        (process(50, ppid=40), ["root, started by uid 1000"]),
        (process(50, uid=1000, euid=0), ["acts as uid 0"]),
        (process(50, uid=None, euid=None, executable=None, command_line=None, name=None), []),
        (KERNEL[1], []),
    ],
)
def test_what_stands_out(found: Any, said: list[str]) -> None:
    parents = {40: process(40, uid=1000)}
    assert marks(found, parents, stems(KERNEL)) == said


def test_the_marked_then_the_interactive_then_the_newest_are_shown_with_their_ancestors() -> None:
    processes = [process(1, 0), process(5), process(6, 5), process(7, tty="pts/0"), process(8), process(9)]
    nodes = grow(processes, {processes[2].address: ["odd"]})
    assert {node.process.pid for node in choose(nodes, 5)} == {1, 5, 6, 7, 9}
    shown = [(branch, node.process.pid) for branch, node in walk(nodes, choose(nodes, 5))]
    assert shown == [("", 1), ("├─ ", 5), ("│  └─ ", 6), ("├─ ", 7), ("└─ ", 9)]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=30), st.integers(1, 20))
def test_no_family_however_tangled_hides_or_repeats_a_process(pids: list[tuple[int, int]], most: int) -> None:
    processes = [
        process(pid, ppid, address=number, tty=number % 2 or None) for number, (pid, ppid) in enumerate(pids)
    ]
    nodes = grow(processes, {})
    everything = [node for _, node in walk(nodes, set(nodes))]
    assert sorted(node.process.address for node in everything) == list(range(len(processes)))
    chosen = choose(nodes, most)
    assert len(chosen) <= most
    assert all(set(ancestors(node)) <= chosen for node in chosen)
    assert {node for _, node in walk(nodes, chosen)} == chosen


@given(st.lists(st.tuples(st.text(), st.sampled_from(["", "title", "faint", "alert"]))), st.integers(1, 120))
def test_a_styled_line_fits_and_is_safe(spans: list[tuple[str, str]], room: int) -> None:
    line = [Span(*span) for span in spans]
    plain = render(line, room, colour=False)
    assert plain.isprintable()
    assert width(plain) <= room


def test_styles_are_closed() -> None:
    assert render([Span("a", "alert"), Span(" b")], 9, colour=True) == "\x1b[1;31ma\x1b[0m b"
