"""Places in a file, beside a plain list of bytes."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from memdump.process.places import Places

SIZE = 24
STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, SIZE), st.integers(0, SIZE)), max_size=12)


@given(STEPS)
def test_each_address_has_the_place_that_it_was_given_last(steps: list[tuple[bool, int, int]]) -> None:
    places, file = Places(100), 100
    known: dict[int, int] = {}
    for takes, *ends in steps:
        start, end = sorted(ends)
        if takes:
            taken = {
                place.start + n: place.at + n
                for place in places.take_back(start, end)
                for n in range(place.size)
            }
            assert taken == {at: known.pop(at) for at in range(start, end) if at in known}
            continue
        for one, other in list(places.without(start, end)):
            assert not any(at in known for at in range(one, other))
            places.give(one, other)
            known |= {at: file + at - one for at in range(one, other)}
            file += other - one
    assert places.end == file
    found = list(places.of(0, SIZE))
    assert {place.start + n: place.at + n for place in found for n in range(place.size)} == known
    assert all(one.end <= other.start for one, other in itertools.pairwise(found))
