"""What a responder wants to know first, on one screen: each section is a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.errors import MemdumpError
from memdump.kernel.problems import NoKernel
from memdump.report.styled import Line, Span
from memdump.report.triage import activity, loaded, machine, network, processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.dump import Dump
    from memdump.report.triage.section import Section

SECTIONS = {
    "MACHINE": machine.section,
    "PROCESSES": processes.section,
    "NETWORK": network.section,
    "SHELL": activity.shell,
    "FILES": activity.files,
    "MODULES": loaded.section,
}
INDENT = Span("  ")


def screen(dump: Dump) -> Iterator[Line]:
    """The lines of the screen; a section that cannot be had says why, and the others are still there.

    Raises `NoKernel` where none of them can be had.
    """
    for number, (title, build) in enumerate(SECTIONS.items()):
        if number:
            yield ()
        try:
            yield from _lines(dump, title, build(dump))
        except NoKernel:
            raise
        except MemdumpError as error:
            yield Span(f"{title:<11}", "title"), Span(str(error))


def _lines(dump: Dump, title: str, section: Section) -> Iterator[Line]:
    yield Span(f"{title:<11}", "title"), Span(section.summary)
    for line in section.lines:
        yield INDENT, *line
    if section.more:
        yield INDENT, Span(f"… {section.more}: memdump show {dump.address} {section.table}", "faint")
