from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.kernel.clocks import Clocks, read_clocks, utc

if TYPE_CHECKING:
    from memdump.dump import Dump
    from tests.lab.guests import Made

SECOND = 1_000_000_000


def test_nanoseconds_are_counted_from_1970() -> None:
    assert utc(1_600_000_000_123_456_789) == datetime(2020, 9, 13, 12, 26, 40, 123456, tzinfo=UTC)
    assert utc(-1) == datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


@given(st.integers(-(1 << 64), 1 << 64))
def test_any_number_is_a_time_or_none(nanoseconds: int) -> None:
    found = utc(nanoseconds)
    if found is not None:
        assert (found - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == nanoseconds // 1000


def test_what_is_not_known_stays_unknown() -> None:
    clocks = Clocks()
    assert (clocks.image_time, clocks.boot_time) == (None, None)
    assert (clocks.from_boottime(1), clocks.from_monotonic(1)) == (None, None)


@pytest.mark.lab
def test_the_clocks_are_those_of_the_guest(guest: Made, dump: Dump) -> None:
    told = guest.truth["clock"]
    clocks = read_clocks(dump.kernel)
    assert clocks.realtime is not None
    assert clocks.boottime is not None
    assert clocks.monotonic is not None
    # The truth was written just before the image was taken; how long before, the guest cannot know.
    assert -SECOND < clocks.realtime - told["realtime_ns"] < 600 * SECOND
    booted = told["realtime_ns"] - told["boottime_ns"]
    assert abs(clocks.realtime - clocks.boottime - booted) < SECOND // 100
    assert (
        abs(clocks.boottime - clocks.monotonic - (told["boottime_ns"] - told["monotonic_ns"])) < SECOND // 100
    )
    assert clocks.boot_time is not None
    assert int(clocks.boot_time.timestamp()) == told["btime"]
