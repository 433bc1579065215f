"""The process tree, with what stands out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.report.styled import Line, Span
from memdump.report.triage.marks import marks, stems
from memdump.report.triage.section import Section
from memdump.report.triage.tree import Node, choose, grow, walk

if TYPE_CHECKING:
    from memdump.dump import Dump

MOST = 18


def section(dump: Dump) -> Section:
    """The tree of those that stand out, of interactive and of new processes."""
    processes = list(dump.table("processes"))
    names = stems(processes)
    parents = {process.pid: process for process in processes}
    noted = {process.address: marks(process, parents, names) for process in processes}
    nodes = grow(processes, noted)
    chosen = choose([node for node in nodes if not node.process.kernel_thread], MOST)
    threads = sum(process.kernel_thread for process in processes)
    standing_out = sum(bool(node.marks) for node in nodes)
    summary = f"{len(processes) - threads} and {threads} kernel threads; "
    summary += f"{standing_out} stand{'s' * (standing_out == 1)} out" if standing_out else "none stands out"
    left = len(processes) - threads - sum(not node.process.kernel_thread for node in chosen)
    width = max((len(str(node.process.pid)) for node in chosen), default=1)
    lines = [_line(branch, node, width) for branch, node in walk(nodes, chosen)]
    return Section(summary, lines, "processes", f"{left} more" if left else "")


def _line(branch: str, node: Node, width: int) -> Line:
    process = node.process
    parent = node.parent.process if node.parent else None
    usual = parent.uid if parent else 0
    user = "" if process.uid == usual else f"  uid {process.uid}"
    spans = [
        Span("! " if node.marks else "  ", "alert"),
        Span(f"{process.pid:>{width}}  "),
        Span(branch, "faint"),
        Span(process.name or "?", "alert" if node.marks else ""),
        Span(user),
    ]
    if node.marks:
        spans.append(Span("  " + ", ".join(node.marks), "alert"))
    spans.append(Span(f"  {process.command_line or process.executable or ''}", "faint"))
    return tuple(spans)
