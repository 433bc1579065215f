"""The ``kernel_log`` table: what the kernel has said."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the columns are read from the annotations
from typing import TYPE_CHECKING, Annotated

from memdump.kernel.clocks import read_clocks
from memdump.kernel.printk import Record, read_ring
from memdump.kernel.text import decode
from memdump.tables.schema import DETAIL, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel

LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
"""As ``dmesg --decode`` names them."""
FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("res0", "res1", "res2", "res3"),
    *("local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
)
"""``syslog(3)``; numbers 12 to 15 are reserved."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record of the kernel's log, as /dev/kmsg gives it: the oldest first."""

    time: Annotated[
        datetime | None,
        "When it was written; early by the time that the system was suspended between then and the image",
    ]
    since_boot: Annotated[float, "The same in seconds since the system started, as dmesg shows it", DETAIL]
    level: Annotated[str, "emerg, alert, crit, err, warn, notice, info or debug"]
    facility: Annotated[str, "kern, or user and others for what was written to /dev/kmsg", DETAIL]
    tid: Annotated[int | None, "Thread that wrote it; null if it came from an interrupt", DETAIL]
    text: Annotated[str, "The message; it may have several lines"]


@table(LogRecord)
def kernel_log(kernel: Kernel) -> Iterator[LogRecord]:
    """Read the ring buffer of printk, also records that could still be continued."""
    clocks = read_clocks(kernel)
    for record in read_ring(kernel, "kernel_log").records():
        if not isinstance(record, Record):
            kernel.problems.add("kernel_log", "ring buffer", record)
            continue
        microseconds, facility = record.time // 1000, record.facility
        yield LogRecord(
            time=clocks.from_monotonic(record.time),
            since_boot=microseconds / 1_000_000,
            level=LEVELS[record.level],
            facility=FACILITIES[facility] if facility < len(FACILITIES) else str(facility),
            tid=record.thread,
            text=decode(record.text),
        )
