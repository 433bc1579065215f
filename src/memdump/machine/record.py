"""From what was taken to the manifest that tells of it."""

import os
import pwd
from typing import NamedTuple, Optional, Sequence

from memdump.machine import host, manifest
from memdump.machine.acquire import Taken
from memdump.machine.host import Host, Instant
from memdump.machine.manifest import Manifest, Operator, Refused, Skipped, Staged, Stream, Timings, Written


class Circumstances(NamedTuple):
    """What is known before the first byte is taken."""

    memdump: str
    """The version of memdump."""
    arguments: Sequence[str]
    host: Host
    source: str
    evidence: Optional[str]
    refused: Sequence[Refused]
    vmcoreinfo: Optional[str]
    started: Instant
    """On the machine that memdump runs on, which is not always the one whose memory it is."""


class Steps(NamedTuple):
    """Seconds that the steps behind the LiME stream were busy."""

    writing: float
    compressing: float = 0.0
    encrypting: float = 0.0


def record(known: Circumstances, taken: Taken, steps: Optional[Steps] = None) -> Manifest:
    """Put the manifest together, as far as it is known before the image is closed.

    Without ``steps`` the stream was written as it is.
    """
    steps = steps or Steps(taken.writing_seconds)
    return Manifest(
        memdump=known.memdump,
        command=manifest.command(known.arguments),
        host=known.host,
        started=taken.started,
        ended=taken.ended,
        source=known.source,
        ranges=taken.ranges,
        stream=Stream("lime", taken.size, taken.sha256),
        complete=taken.complete,
        stopped_by=taken.stopped_by,
        timings=Timings(
            total=taken.total_seconds,
            reading=taken.reading_seconds,
            hashing=taken.hashing_seconds,
            writing=steps.writing,
            compressing=steps.compressing,
            encrypting=steps.encrypting,
            staging=taken.staging_seconds,
        ),
        vmcoreinfo=known.vmcoreinfo,
        written=None,
        acquired_by=Operator(host.printable(os.uname().nodename), user(), known.started, host.now()),
        evidence=known.evidence,
        refused=known.refused,
        order="kernel-first" if taken.kernel_first else "ascending",
        staged=Staged(taken.staged, taken.unstaged) if taken.kernel_first else None,
        skipped=[Skipped("free", taken.skipped)] if taken.skipped else [],
        unreadable=taken.unreadable,
        not_taken=taken.not_taken,
        pauses=taken.pauses,
        added=taken.added,
        removed=taken.removed,
    )


def closed(record: Manifest, written: Optional[Written], failure: Optional[str] = None) -> Manifest:
    """Complete it with what became of the image: the file, and what its disk said in the end."""
    stopped_by = record.stopped_by
    if failure is not None and failure not in (stopped_by or ""):  # what ended it may fail its end as well
        stopped_by = f"{stopped_by}; {failure}" if stopped_by else failure
    return record._replace(
        written=written, complete=record.complete and failure is None, stopped_by=stopped_by
    )


def user() -> str:
    """Name who runs memdump, and who asked for it through sudo."""
    name = os.environ.get("SUDO_USER")
    try:
        own = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        own = str(os.geteuid())
    return host.printable(f"{own} ({name})" if name and name != own else own)
