"""Why a kernel crashed, for people: the answer first, then the evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.report.styled import Line, Span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.crash.kernel import KernelCrash

LABEL = 10
KINDS = {
    "panic": "the kernel panicked",
    "oops": "a fault in the kernel, which it survived",
    "none": "it did not crash: its log has neither a panic nor a fault in the kernel",
}


def lines(found: KernelCrash) -> Iterator[Line]:
    """All of it; a line may be longer than the terminal is wide."""
    yield Span(f"{'CRASH':<{LABEL + 2}}", "title"), Span(found.path)
    where = f" on {found.hostname}" if found.hostname else ""
    yield _fact("kernel", f"Linux {found.release}{where}")
    yield _fact("why", KINDS[found.kind], "alert" if found.message else "")
    if found.message:
        yield _fact("message", found.message, "alert")
    if found.meaning:
        yield _fact("", found.meaning)
    if found.task:
        yield _fact("task", f"{found.task.name} (pid {found.task.pid}), on processor {found.cpu}")
    elif found.cpu is not None:
        yield _fact("processor", str(found.cpu))
    if found.taint:
        yield _fact("taint", f"{found.taint}: {'; '.join(found.taints)}")
    if found.modules:
        yield _fact("modules", ", ".join(found.modules))
    yield from _stack(found)
    yield from _log(found)


def _fact(label: str, text: str, style: str = "") -> Line:
    return Span(f"  {label:<{LABEL}}", "faint"), Span(text, style)


def _stack(found: KernelCrash) -> Iterator[Line]:
    if not found.stack:
        return
    yield ()
    yield Span(f"{'STACK':<{LABEL + 2}}", "title"), Span(f"of task {found.task.pid}" if found.task else "")
    for number, frame in enumerate(found.stack):
        name = f"{frame.function}+{frame.offset:#x}" if frame.function else f"{frame.pc:#x}"
        yield (
            Span(f"  {number:>3}  "),
            Span(name),
            Span(f" [{frame.module}]" if frame.module else "", "faint"),
        )


def _log(found: KernelCrash) -> Iterator[Line]:
    if not found.log:
        return
    yield ()
    yield (Span("LOG", "title"),)
    for line in found.log:
        yield Span("  "), Span(line)
