"""Kernel modules that taint the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.report.styled import Line, Span
from memdump.report.triage.section import Section

if TYPE_CHECKING:
    from memdump.dump import Dump

MOST = 6


def section(dump: Dump) -> Section:
    """Modules with taints, which are those that did not come with the kernel."""
    modules = list(dump.table("modules"))
    tainting = [module for module in modules if module.taints]
    left = max(len(tainting) - MOST, 0)
    lines: list[Line] = [
        (
            Span("! ", "alert"),
            Span(f"{module.name:<20}  ", "alert"),
            Span(f"taints the kernel: {module.taints:<4}  "),
            Span(f"{module.size} bytes at {module.address:#x}", "faint"),
        )
        for module in tainting[:MOST]
    ]
    verb = "taints" if len(tainting) <= 1 else "taint"
    summary = f"{len(modules)} loaded; {len(tainting) or 'none'} of them {verb} the kernel"
    return Section(summary, lines, "modules", f"{left} more" if left else "")
