"""What was typed, and which files were touched last."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from memdump.report.styled import Line, Span
from memdump.report.triage.section import Section
from memdump.report.values import iso

if TYPE_CHECKING:
    from memdump.dump import Dump

MOST_COMMANDS = 8
MOST_FILES = 8
MADE_UP = {"cgroup", "cgroup2", "debugfs", "devtmpfs", "efivarfs", "proc", "securityfs", "sysfs", "tracefs"}
"""File systems whose files nobody wrote."""
_NEVER = datetime.fromtimestamp(0, UTC)


def shell(dump: Dump) -> Section:
    """The last commands that were typed into shells."""
    commands = sorted(dump.table("shell_history"), key=lambda row: row.time or _NEVER)
    left = max(len(commands) - MOST_COMMANDS, 0)
    summary = f"{len(commands)} command{'s' * (len(commands) != 1)} in the memory of shells"
    lines = [_typed(row) for row in commands[-MOST_COMMANDS:]]
    return Section(summary, lines, "shell_history", f"{left} earlier" if left else "")


def files(dump: Dump) -> Section:
    """The files that changed last."""
    rows = (
        row for row in dump.table("recent_files") if row.type == "regular" and row.file_system not in MADE_UP
    )
    newest = list(islice(rows, MOST_FILES))
    left = sum(1 for _ in rows)
    summary = f"{len(newest) + left} remembered by the caches, the last changed first"
    return Section(summary, [_changed(row) for row in newest], "recent_files", f"{left} more" if left else "")


def _typed(row: Any) -> Line:
    when = iso(row.time, "seconds") if row.time else f"{'no time':<20}"
    return Span(f"{when}  "), Span(f"{row.shell} ({row.pid})  ", "faint"), Span(row.command or "")


def _changed(row: Any) -> Line:
    when = iso(row.changed, "seconds") if row.changed else f"{'no time':<20}"
    return (
        Span(f"{when}  "),
        Span(f"{row.size:>11} bytes  ", "faint"),
        Span(row.path or "a file without a name"),
        Span("  deleted" if row.deleted else "", "alert"),
    )
