"""Which machine this was, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memdump.report.info import size
from memdump.report.styled import Line, Span
from memdump.report.triage.section import Section
from memdump.report.values import iso

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

    from memdump.dump import Dump


def section(dump: Dump) -> Section:
    """The one row of the table ``system``, in words."""
    system = next(dump.table("system"), None)
    if system is None:
        return Section("nothing is known of it", [])
    lines: list[Line] = [
        _fact("kernel", f"Linux {system.kernel_release} {system.architecture} {system.kernel_version or ''}"),
        _fact("hardware", ", ".join(_hardware(system))),
    ]
    if system.boot_time and system.image_time:
        up = _duration(system.image_time - system.boot_time)
        lines.append(_fact("taken", f"{iso(system.image_time, 'seconds')}, {up} after it was started"))
    lines.append(_fact("started with", system.command_line or ""))
    if system.taint:
        lines.append((*_fact("taint", ""), Span(system.taint, "alert")))
    return Section(system.hostname or "without a name", lines)


def _hardware(system: Any) -> Iterator[str]:
    if system.cpus is not None:
        yield f"{system.cpus} CPU{'s' * (system.cpus != 1)}"
    if system.cpu_model:
        yield system.cpu_model
    if system.memory is not None:
        yield f"{size(system.memory)} of memory"


def _fact(label: str, value: str) -> Line:
    return Span(f"{label:<14}", "faint"), Span(value)


def _duration(time: timedelta) -> str:
    """The two greatest units: ``3 days 4 hours``."""
    minutes, seconds = divmod(int(time.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = ((days, "day"), (hours, "hour"), (minutes, "minute"), (seconds, "second"))
    present = [f"{count} {unit}{'s' * (count != 1)}" for count, unit in units if count]
    return " ".join(present[:2]) or "0 seconds"
