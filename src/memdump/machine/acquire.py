"""The whole way from a source to an image and its manifest."""

import contextlib
import time
from typing import Callable, NamedTuple, Optional, Sequence

from memdump.errors import MemdumpError
from memdump.machine import host, lime
from memdump.machine.manifest import Manifest, Timings
from memdump.machine.pipeline import Digest, ReadAhead, Stream
from memdump.machine.source import Range, Source


class Job(NamedTuple):
    """What is asked for, as the manifest tells it."""

    memdump: str
    """The version of memdump."""
    command: Sequence[str]
    file: Optional[str]


def image_size(ranges: Sequence[Range]) -> int:
    """Count the bytes that the image of these ranges will have."""
    return sum(lime.HEADER.size + found.size for found in ranges)


def acquire(
    source: Source,
    stream: Stream,
    job: Job,
    progress: Callable[[int], None],
    stop: Callable[[], Optional[str]],
) -> Manifest:
    """Write all memory of ``source`` to ``stream`` in the LiME format, and tell how it went.

    ``progress`` gets the bytes written so far, ``stop`` may give a reason to end early; both are called once
    a block.  Pages that cannot be read become zeros.  Where the stream fails or ``stop`` says so, the
    manifest is not ``complete``; what was written is a LiME image that lacks its end.
    """
    this, started, clock = host.this_host(), host.now(), time.monotonic()
    ranges = list(source.ranges())
    starts = {found.start: found for found in ranges}
    reader = ReadAhead(source, ranges, this.page_size)
    digest = Digest(stream)
    stopped_by: Optional[str] = None
    try:
        with contextlib.closing(reader.blocks()) as blocks:
            for address, data in blocks:
                stopped_by = stop()
                if stopped_by:
                    break
                if address in starts:
                    lime.write_header(digest, starts[address])
                digest.write(data)
                progress(digest.size)
    except MemdumpError as error:
        stopped_by = str(error)
    finally:
        sha256 = digest.close()
    return Manifest(
        memdump=job.memdump,
        command=job.command,
        file=job.file,
        image_format="lime",
        host=this,
        started=started,
        ended=host.now(),
        source=source.name,
        ranges=ranges,
        unreadable=reader.unreadable,
        size=digest.size,
        sha256=sha256,
        complete=stopped_by is None,
        stopped_by=stopped_by,
        timings=Timings(
            total=time.monotonic() - clock,
            reading=reader.seconds,
            hashing=digest.hashing_seconds,
            writing=digest.writing_seconds,
        ),
        vmcoreinfo=source.vmcoreinfo,
    )
