from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import drgn
import pytest

from memdump.kernel.partial import PAGE, read_partial
from memdump.kernel.problems import Problems

BASE = 0xFFFF888000000000


def kernel(pages: dict[int, bytes]) -> Any:
    """A kernel that has some pages behind `BASE`."""
    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))

    def read(address: int, size: int, _offset: int, _physical: bool) -> bytes:
        number = (address - BASE) // PAGE
        start = (address - BASE) % PAGE
        if number not in pages or start + size > PAGE:
            raise drgn.FaultError("not there", address)
        return pages[number][start : start + size]

    program.add_memory_segment(BASE, 16 * PAGE, read)
    return SimpleNamespace(program=program, problems=Problems())


def test_pages_that_are_missing_are_zeros_and_noted() -> None:
    made = kernel({0: b"a" * PAGE, 2: b"c" * PAGE})
    data = read_partial(made, BASE + 4000, 2 * PAGE, "table", "place")
    assert data == b"a" * 96 + bytes(PAGE) + b"c" * 4000
    (problem,) = made.problems
    assert (problem.table, problem.place) == ("table", "place")
    assert "4096 of its 8192 bytes" in problem.reason


def test_what_is_there_is_read_without_a_note() -> None:
    made = kernel({0: b"a" * PAGE})
    assert read_partial(made, BASE, PAGE, "table", "place") == b"a" * PAGE
    assert not len(made.problems)


@pytest.mark.parametrize("size", [-1, 1 << 40])
def test_an_absurd_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="absurd"):
        read_partial(kernel({}), BASE, size, "table", "place")
