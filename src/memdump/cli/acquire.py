"""``memdump acquire``: the whole machine's memory."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from memdump import __version__
from memdump.errors import MemdumpError
from memdump.machine import destination, host, manifest
from memdump.machine.acquire import Job, acquire, image_size
from memdump.machine.gentle import Gentle
from memdump.machine.interrupt import Interrupt
from memdump.machine.kcore import KcoreSource
from memdump.machine.output import Output
from memdump.machine.progress import Progress, duration

if TYPE_CHECKING:
    import argparse

    from memdump.machine.manifest import Manifest
    from memdump.machine.pipeline import Stream
    from memdump.machine.source import Source

SUMMARY = "take the memory of this machine, as a LiME image"
EXAMPLE = "sudo memdump acquire /mnt/usb/web1.lime"

_MANIFEST_ROOM = 64 << 10
"""Bytes kept free for the manifest, which is due just when the image has filled the disk."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "out",
        metavar="OUT",
        nargs="?",
        default=".",
        help="the image to write, or the folder for HOST-TIME.lime (default: here), or - for standard output",
    )
    parser.add_argument(
        "--manifest",
        metavar="FILE",
        help="the manifest to write (default: OUT.json; with - none)",
    )


def run(args: argparse.Namespace) -> int:
    """Acquire; 0 where the image holds all memory, 1 where part of it is missing."""
    with contextlib.closing(KcoreSource()) as source, Interrupt() as interrupt:
        if args.out == "-":
            return _to_standard_output(source, args.manifest, interrupt)
        path = Path(args.out)
        if path.is_dir():
            path /= host.image_name()
        return _to_file(source, path, args.manifest or manifest.path_of(str(path)), interrupt)


def _to_file(source: Source, path: Path, record_path: str, interrupt: Interrupt) -> int:
    destination.check(path, image_size(source.ranges()))
    with Output(record_path) as record, Output(path, keep_partial=True) as image:
        record.reserve(_MANIFEST_ROOM)
        stream = Gentle(image)
        taken = _take(source, stream, path.name, interrupt, f"what was written stands in {image.part}")
        taken = _finish(taken, stream, image)
        status = max(_report(taken), _record(taken, record))
    if taken.complete:
        print(path)
    return status


def _to_standard_output(source: Source, record_path: str | None, interrupt: Interrupt) -> int:
    stream = destination.StandardOutput()
    left = "the image on standard output is not whole"
    if record_path is None:
        return _report(_take(source, stream, None, interrupt, left))
    with Output(record_path) as record:
        taken = _take(source, stream, None, interrupt, left)
        return max(_report(taken), _record(taken, record))


def _take(source: Source, stream: Stream, file: str | None, interrupt: Interrupt, left: str) -> Manifest:
    """Acquire with a progress bar; ``left`` says what there is after a signal to stop."""
    job = Job(__version__, [host.printable(word) for word in sys.argv], file and host.printable(file))
    progress = Progress(image_size(source.ranges()))
    try:
        return acquire(
            source,
            stream,
            job,
            progress,
            lambda: f"stopped by {interrupt.received}; {left}" if interrupt.received else None,
        )
    finally:
        progress.clear()


def _finish(taken: Manifest, stream: Gentle, image: Output) -> Manifest:
    """Give the image its name if it is whole, which its disk has the last word on."""
    try:
        stream.close()
        if taken.complete:
            image.commit()
    except MemdumpError as error:
        return taken._replace(complete=False, stopped_by=taken.stopped_by or str(error))
    return taken


def _record(taken: Manifest, record: Output) -> int:
    """Write the manifest; the image does not depend on it, so a failure is said and costs nothing else."""
    try:
        record.write(taken.to_json().encode())
        record.commit()
    except MemdumpError as error:
        _say(str(error))
        return 1
    return 0


def _report(taken: Manifest) -> int:
    """Say how it went, and give the exit status."""
    amount = sum(found.size for found in taken.ranges)
    if taken.stopped_by:
        _say(f"{taken.stopped_by} ({taken.size >> 20:,} of {amount >> 20:,} MiB)")
        return 1
    seconds = taken.timings.total
    _say(
        f"{amount >> 20:,} MiB in {duration(seconds)} ({amount / seconds / (1 << 20):,.0f} MiB/s), "
        f"SHA-256 {taken.sha256}"
    )
    lost = sum(found.size for found in taken.unreadable)
    if not lost:
        return 0
    where = ", ".join(f"{found.start:#x}-{found.end - 1:#x}" for found in taken.unreadable[:3])
    more = ", ..." if len(taken.unreadable) > 3 else ""
    _say(f"{lost:,} bytes could not be read and stand as zeros in the image: {where}{more}")
    return 1


def _say(line: str) -> None:
    print(f"memdump: {line}", file=sys.stderr)
