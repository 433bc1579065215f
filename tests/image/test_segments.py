from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from memdump.image.bitmap import STEP, runs
from memdump.image.segments import Segment, disjoint

segments = st.lists(
    st.builds(Segment, st.integers(0, 40), st.integers(0, 12), st.integers(0, 1000).map(lambda n: n * 100)),
    max_size=12,
)


class Bytes(bytes):
    """A file's bytes."""

    def close(self) -> None:
        pass


@given(segments)
def test_each_address_goes_to_the_first_that_claims_it(claims: list[Segment]) -> None:
    expected: dict[int, int] = {}
    for claim in claims:
        for within in range(claim.size):
            expected.setdefault(claim.start + within, claim.offset + within)
    result = disjoint(claims)
    given = [
        (found.start + within, found.offset + within) for found in result for within in range(found.size)
    ]
    assert given == sorted(expected.items())
    assert all(found.size > 0 for found in result)


def test_what_is_covered_by_others_does_not_break_them_up() -> None:
    whole = Segment(0, 10, 500)
    assert disjoint([whole, Segment(2, 3, 100), Segment(20, 1, 0)]) == [whole, Segment(20, 1, 0)]


@given(st.binary(max_size=60), st.integers(0, 3), st.integers(0, 500))
def test_runs_are_those_of_a_loop(bitmap: bytes, offset: int, pages: int) -> None:
    bits = bitmap[offset:]
    expected = {page for page in range(min(pages, 8 * len(bits))) if bits[page // 8] >> page % 8 & 1}
    found = list(runs(Bytes(bitmap), offset, pages))
    assert [page for first, count in found for page in range(first, first + count)] == sorted(expected)
    assert all(before[0] + before[1] < after[0] for before, after in itertools.pairwise(found))


def test_a_run_over_the_border_of_two_steps_is_one() -> None:
    bitmap = bytearray(2 * STEP)
    bitmap[STEP - 1], bitmap[STEP] = 0xF0, 0x0F
    assert list(runs(Bytes(bitmap), 0, 2 * STEP * 8)) == [(STEP * 8 - 4, 8)]
