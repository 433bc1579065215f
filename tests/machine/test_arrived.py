"""What is left of an acquisition whose destination failed."""

from __future__ import annotations

import random
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.machine import arrived, lime, pieces
from memdump.machine.acquire import Plan
from memdump.machine.source import Range
from memdump.machine.stage import Stage
from tests.machine.fake_kcore import PAGE
from tests.machine.test_acquire import KERNEL, SPLIT, Changing, check_what_is_there, taken
from tests.machine.test_acquire import lime as read_lime
from tests.machine.test_pageflags import SLAB
from tests.machine.test_pipeline import Collected

RANGES = [Range(0x1000, 0x9000), Range(0x100000, 0x20000), Range(0x120000, 0x1000), Range(0x900000, 0x40000)]


@pytest.mark.parametrize("seed", range(5))
def test_each_place_in_the_stream_leads_up_to_its_address(seed: int) -> None:
    """Truth: the reader of the tests, which was written by LiME's documentation."""
    collected = Collected()
    course = arrived.Course(collected, lambda: 0)
    for span in RANGES:
        lime.write_header(course, span)
        for start in range(0, span.size, 3 * PAGE):
            course.write(bytes(min(3 * PAGE, span.size - start)))
    data = bytes(collected.data)
    chance = random.Random(seed)
    for size in [0, 5, 32, len(data), *(chance.randrange(len(data)) for _ in range(50))]:
        held = read_lime(data[:size]) if size > 32 else {}
        want = max((start + len(content) for start, content in held.items()), default=course.reached(size))
        assert course.reached(size) == want
    assert course.reached(len(data)) == RANGES[-1].end


def test_headers_that_have_arrived_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrived, "_LOOK_AGAIN", 10)
    collected = Collected()
    course = arrived.Course(collected, lambda: len(collected.data) // 2)
    for number in range(1000):
        lime.write_header(course, Range(2 * PAGE * number, PAGE))
        course.write(bytes(PAGE))
    assert len(course._places) < 600
    for number in range(700, 1000):
        assert course.reached(number * (PAGE + 32)) == 2 * PAGE * number


@given(KERNEL, st.integers(1, 12), st.randoms(use_true_random=False))
def test_early_copies_behind_a_gap_do_not_fill_the_gap(
    kernel: set[int], stop_after: int, chance: random.Random
) -> None:
    kernel -= {14, 15}
    source = Changing(SPLIT, dict.fromkeys(kernel, SLAB))
    stream = Collected()
    with mock.patch.multiple(pieces, BLOCK=3 * PAGE, _SMALLEST_PIECE=6 * PAGE):
        found = taken(source, stream, stop_after, Plan(Stage(PAGE)))
    course = arrived.Course(Collected(), lambda: 0)
    ends = [0]
    for start, data in read_lime(bytes(stream.data)).items():
        lime.write_header(course, Range(start, len(data)))
        ends += range(course.size + PAGE, course.size + len(data) + 1, PAGE)
        course.write(data)
    size = chance.choice(ends)
    left = arrived.cut(found, size, course.reached(size), "the disk failed")
    check_what_is_there(source, bytes(stream.data[:size]), left, kernel)
