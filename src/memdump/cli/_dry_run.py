"""What ``memdump acquire --dry-run`` says: what would be done, and what it would cost."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from memdump.cli import _acquisition
from memdump.errors import MemdumpError
from memdump.machine import destination, sources
from memdump.machine.file_destination import check_names
from memdump.machine.http_spool import path_in
from memdump.machine.progress import duration
from memdump.report.text import visible

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from memdump.cli._acquisition import Layout
    from memdump.machine.estimate import Estimate
    from memdump.machine.sources import Chosen

MIB = 1 << 20


def show(args: argparse.Namespace, chosen: Chosen, layout: Layout) -> int:
    """Say it on standard output; 2 where the destination would not do."""
    expected = _acquisition.sample(chosen.source, layout.sealing, skip_free=bool(args.skip))
    for label, value in (
        *_source(args, chosen, expected),
        *_cost(args, chosen, expected),
        *_destination(layout, expected),
    ):
        print(f"{label:<14}{visible(value)}")
    try:
        if layout.on_disk is not None:
            destination.check(layout.on_disk, expected.image)
        if layout.path is not None:
            check_names(layout.path, layout.options)
            return 0
        destination.check_address(layout.out, layout.options)
        if layout.options.spool is not None:
            spooled = path_in(layout.options.spool, layout.out, layout.options)
            check_names(spooled, layout.options)
    except MemdumpError as error:
        print(f"memdump: {visible(str(error))}", file=sys.stderr)
        return error.exit_status
    return 0


def _source(args: argparse.Namespace, chosen: Chosen, expected: Estimate) -> Iterator[tuple[str, str]]:
    source = chosen.source
    yield "source", source.name + (f" ({source.evidence})" if source.evidence else "")
    others = chosen.refused if args.source != "auto" else sources.survey(source.name)
    for name, reason in others:
        yield "", f"{name}: {reason}"
    ranges = source.ranges()
    yield "memory", f"{expected.memory / MIB:,.0f} MiB in {len(ranges)} ranges"
    early = _early(args, chosen, expected)
    if early:
        yield "order", f"kernel-first: about {early / MIB:,.0f} MiB of the kernel's own pages"
    else:
        yield "order", "ascending"
    if args.skip:
        yield "left out", f"about {expected.free / MIB:,.0f} MiB of free pages"


def _early(args: argparse.Namespace, chosen: Chosen, expected: Estimate) -> int:
    """Count the bytes that are going to be taken before all others."""
    return 0 if args.order == "ascending" or chosen.source.pauses_machine else expected.kernel


def _cost(args: argparse.Namespace, chosen: Chosen, expected: Estimate) -> Iterator[tuple[str, str]]:
    seconds = expected.seconds
    if args.max_rate:
        seconds = max(seconds, (expected.memory + _early(args, chosen, expected)) / args.max_rate)
    rate = f"{expected.memory / seconds / MIB:,.0f} MiB/s"
    yield "time", f"about {duration(seconds)} ({rate}), longer where the destination is slower than that"
    if chosen.source.pauses_machine:
        yield (
            "pause",
            f"the guest stands still for about {duration(seconds)}, longer where the destination is slower"
            " than that (--live: not at all)",
        )
    else:
        yield "pause", "none: the machine goes on running"
    yield "priority", f"{args.priority} for processor and disk"
    yield "own memory", "less than 100 MiB"


def _destination(layout: Layout, expected: Estimate) -> Iterator[tuple[str, str]]:
    form = " in ".join(("LiME", *layout.sealing.layers))
    size = f"{expected.image / MIB:,.0f} MiB"
    about = "" if layout.options.exact else "about "
    yield (
        "image",
        f"{about}{size} ({form})" if layout.sealing.layers else f"{about}{size} ({form}, not encrypted)",
    )
    yield "destination", layout.name
    if layout.on_disk is not None:
        free, kind = destination.room(layout.on_disk)
        spool = f"by way of {layout.on_disk.parent}: " if layout.options.spool else ""
        yield (
            "",
            spool
            + f"{kind or 'unknown file system'}, "
            + (f"{free / MIB:,.0f} MiB free" if free is not None else "does not tell what is free"),
        )
    if layout.path is not None:
        yield (
            "written",
            ", ".join(
                [layout.path.name, *(f"{layout.path.name}{end}" for end in layout.options.attachments)]
            ),
        )
