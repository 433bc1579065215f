from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from memdump.dump import Dump
    from tests.lab.guests import Made

LEVELS = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"]
KERN, USER = 0, 1


class Line(NamedTuple):
    """A record of /dev/kmsg, as Documentation/ABI/testing/dev-kmsg describes it."""

    microseconds: int
    level: str
    facility: int
    text: str


def kmsg(record: str) -> Line:
    head, _, rest = record.partition(";")
    priority, _, microseconds, *_ = head.split(",")
    text = rest.split("\n")[0].encode("utf-8", "surrogateescape")
    text = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), text)
    level, facility = int(priority) & 7, int(priority) >> 3
    return Line(int(microseconds), LEVELS[level], facility, text.decode("utf-8", "surrogateescape"))


@pytest.mark.lab
def test_the_log_is_that_of_kmsg(guest: Made, dump: Dump) -> None:
    truth = [kmsg(record) for record in guest.truth["kernel_log"]]
    rows = list(dump.table("kernel_log"))[: len(truth)]
    assert [(round(row.since_boot * 1e6), row.level, row.text) for row in rows] == [
        (line.microseconds, line.level, line.text) for line in truth
    ]


@pytest.mark.lab
def test_the_facility_tells_who_wrote(guest: Made, dump: Dump) -> None:
    truth = [kmsg(record).facility for record in guest.truth["kernel_log"]]
    names = [row.facility for row in dump.table("kernel_log")]
    assert {"kern", "user"} <= set(names)
    assert [{"kern": KERN, "user": USER}.get(name) for name in names[: len(truth)]] == [
        found if found in (KERN, USER) else None for found in truth
    ]


@pytest.mark.lab
def test_times_are_those_of_the_clock(guest: Made, dump: Dump) -> None:
    clock = guest.truth["clock"]
    started = (clock["realtime_ns"] - clock["monotonic_ns"]) / 1e9
    for row in dump.table("kernel_log"):
        assert abs(row.time.timestamp() - row.since_boot - started) < 1
