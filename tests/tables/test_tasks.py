from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import drgn
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.kernel.problems import Problems
from memdump.tables import tasks
from tests.kernel.structures import BASE, program
from tests.tables import proc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memdump.dump import Dump
    from tests.lab.guests import Made

PAGE = 4096


@pytest.mark.lab
def test_the_list_of_tasks_and_the_table_of_pids_say_the_same(dump: Dump) -> None:
    by_pid, by_list = (set(ways(dump.kernel, "")) for ways in (tasks._by_pid, tasks._by_list))
    assert by_pid == by_list
    assert len(by_pid) > 50


@pytest.mark.lab
@pytest.mark.parametrize("way", ["_by_pid", "_by_list"])
def test_a_task_that_was_taken_out_of_one_is_found_by_the_other(
    guest: Made, dump: Dump, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    whole = list(tasks.all_tasks(dump.kernel, ""))
    hidden = {task.address for task in whole if task.group == proc.role(guest, "threads")}
    honest = getattr(tasks, way)

    def tampered(*arguments: Any) -> Iterator[int]:
        return (address for address in honest(*arguments) if address not in hidden)

    monkeypatch.setattr(tasks, way, tampered)
    found = list(tasks.all_tasks(dump.kernel, ""))
    assert [task.address for task in found] == [task.address for task in whole]
    assert len(hidden) == 5


def kernel_of(memory: bytes) -> Any:
    return SimpleNamespace(program=program(memory), problems=Problems())


def test_a_list_ends_where_it_began() -> None:
    kernel = kernel_of(struct.pack("<4Q", BASE + 16, 0, BASE + 24, BASE))
    assert list(tasks._list(kernel, "table", BASE)) == [BASE + 16, BASE + 24]
    assert not len(kernel.problems)


@given(st.lists(st.integers(0, 20), min_size=16, max_size=16))
def test_a_list_that_never_comes_back_ends_too(following: list[int]) -> None:
    kernel = kernel_of(struct.pack("<16Q", *(BASE + 8 * number for number in following)))
    found = list(tasks._list(kernel, "table", BASE))
    assert len(found) == len(set(found)) <= 16
    last = (found[-1] - BASE) // 8 if found else 0
    comes_back = last < 16 and following[last] == 0
    assert bool(len(kernel.problems)) != comes_back


def word(value: int) -> Any:
    return SimpleNamespace(value_=lambda: value)


@pytest.mark.parametrize(
    ("state", "exit_state", "letter"),
    [
        (0, 0, "R"),
        (1, 0, "S"),
        (2, 0, "D"),
        (0x102, 0, "D"),  # killable
        (4, 0, "T"),
        (8, 0, "t"),
        (0x80, 0x10, "X"),
        (0x80, 0x20, "Z"),
        (0x40, 0, "P"),
        (0x402, 0, "I"),
        (0x1000, 0, "D"),  # waits for a lock that may sleep, on a real-time kernel
        (0x8000, 0, "D"),  # frozen
    ],
)
@pytest.mark.parametrize("member", ["state", "__state"])
def test_states_have_the_letters_that_proc_gives_them(
    state: int, exit_state: int, letter: str, member: str
) -> None:
    task = SimpleNamespace(**{member: word(state)}, exit_state=word(exit_state))
    assert tasks.state(task) == letter


def reader(whole: bytes, missing: int) -> Callable[[Any, int, int], bytes]:
    """Reads from ``whole`` but for the page with the number ``missing``."""

    def read(_mm: Any, address: int, size: int) -> bytes:
        if address // PAGE <= missing <= (address + size - 1) // PAGE:
            raise drgn.FaultError("not here", missing * PAGE)
        return whole[address : address + size]

    return read


@pytest.mark.parametrize("missing", [9, 3, 2, 1])
def test_user_memory_is_read_up_to_the_first_page_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    whole = bytes(range(256)) * 64
    monkeypatch.setattr(tasks, "_read_remote", reader(whole, missing))
    kernel = kernel_of(b"")
    found = tasks.read_user(kernel, None, 5000, 9000, "table", "somewhere")
    assert found == whole[5000 : min(14000, missing * PAGE)]
    assert [problem.place for problem in kernel.problems] == ["somewhere"] * (missing < 9)


def test_a_process_whose_first_thread_has_exited_keeps_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    exited, alive = (SimpleNamespace(mm=mm, flags=word(0)) for mm in (None, "memory"))
    threads = [
        tasks.Task(address, pid, 7, "name", struct, struct)
        for address, pid, struct in ((1, 7, exited), (2, 8, exited), (3, 9, alive))
    ]
    monkeypatch.setattr(tasks, "all_tasks", lambda *_: iter(threads))
    (process,) = tasks.processes(kernel_of(b""), "table")
    assert (process.address, process.struct, process.mm) == (1, exited, "memory")
