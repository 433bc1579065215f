"""What the clocks of the kernel showed when the image was taken.

The kernel keeps time as of the last timer tick that some CPU took (``struct timekeeper``,
``include/linux/timekeeper_internal.h``); what has passed since stood only in the hardware and is not in an
image.  So on a machine that does nothing, "now" may be late by the length of its sleep: a few seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import drgn

from memdump.kernel.problems import SMEAR

if TYPE_CHECKING:
    from memdump.kernel.kernel import Kernel

SECOND = 1_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LARGEST_SHIFT = 32
"""``clocks_calc_mult_shift`` gives none above it."""


def utc(nanoseconds: int) -> datetime | None:
    """The time ``nanoseconds`` after 1970, in UTC and whole microseconds; None beyond the years 1 to 9999."""
    try:
        return EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return None


def from_timespec(time: Any) -> datetime | None:
    """A ``struct timespec64`` of CLOCK_REALTIME."""
    return utc(time.tv_sec.value_() * SECOND + time.tv_nsec.value_())


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks at one instant, all in nanoseconds; what the image does not tell is None."""

    realtime: int | None = None
    """Since 1970: CLOCK_REALTIME."""
    monotonic: int | None = None
    """Since the system started, without the time it was suspended: CLOCK_MONOTONIC."""
    boottime: int | None = None
    """Since the system started: CLOCK_BOOTTIME."""

    @property
    def image_time(self) -> datetime | None:
        """When the image was taken."""
        return None if self.realtime is None else utc(self.realtime)

    @property
    def boot_time(self) -> datetime | None:
        """When the system started; ``btime`` of ``/proc/stat`` is this in whole seconds."""
        return self.from_boottime(0)

    def from_boottime(self, nanoseconds: int) -> datetime | None:
        """When CLOCK_BOOTTIME showed this."""
        if self.realtime is None or self.boottime is None:
            return None
        return utc(self.realtime - self.boottime + nanoseconds)

    def from_monotonic(self, nanoseconds: int) -> datetime | None:
        """When CLOCK_MONOTONIC showed this, on a system that has not been suspended since."""
        if self.realtime is None or self.monotonic is None:
            return None
        return utc(self.realtime - self.monotonic + nanoseconds)


def read_clocks(kernel: Kernel) -> Clocks:
    """The clocks of the kernel; where its timekeeper cannot be read, that is noted and nothing is known."""
    try:
        return _clocks_of(_timekeeper(kernel))
    except SMEAR as error:
        kernel.problems.add("", "timekeeper", f"no time can be told: {error}")
        return Clocks()


def _clocks_of(timekeeper: Any) -> Clocks:
    """As ``tk_xtime`` and ``ktime_get_real`` of ``kernel/time/timekeeping.c`` have it."""
    shift = timekeeper.tkr_mono.shift.value_()
    if shift > LARGEST_SHIFT:
        raise ValueError(f"its clock has a shift of {shift}")
    realtime = timekeeper.xtime_sec.value_() * SECOND + (timekeeper.tkr_mono.xtime_nsec.value_() >> shift)
    monotonic = realtime - timekeeper.offs_real.value_()
    return Clocks(realtime, monotonic, monotonic + timekeeper.offs_boot.value_())


def _timekeeper(kernel: Kernel) -> Any:
    """The timekeeper of the core clocks.

    It stands in ``tk_core`` behind a sequence counter, in a type with a name only since 6.13; from 6.17 on
    in the first element of ``timekeeper_data``.
    """
    program = kernel.program
    for name in ("timekeeper_data", "tk_core"):
        try:
            found = program[name]
        except LookupError:
            continue
        return (found[0] if name == "timekeeper_data" else found).timekeeper.read_()
    address = kernel.symbols.address_of("tk_core")
    if address is None:
        raise LookupError("tk_core is not among the symbols")
    timekeeper = program.type("struct timekeeper")
    alignment = 8
    counter = (drgn.sizeof(_sequence_counter(program)) + alignment - 1) & -alignment
    return drgn.Object(program, timekeeper, address=address + counter).read_()


def _sequence_counter(program: drgn.Program) -> drgn.Type:
    """The type of ``tk_core.seq``: from 5.9 on it names its lock."""
    try:
        return program.type("seqcount_raw_spinlock_t")
    except LookupError:
        return program.type("seqcount_t")
