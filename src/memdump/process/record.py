"""The manifest of a core: that of an image, and what is known of the process."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from memdump.machine import host, manifest
from memdump.machine import record as machine_record
from memdump.machine.manifest import Manifest, Operator, Skipped, Stream, Timings
from memdump.machine.source import Range

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memdump.machine.manifest import Written
    from memdump.process.capture import Captured
    from memdump.process.guardian import Ended
    from memdump.process.take import Core, Taken
    from memdump.process.target import Target

FORMAT = "elf-core"
SOURCE = "process"


class Together(NamedTuple):
    """The set of processes that were taken at one instant."""

    pids: list[int]
    ended: list[int]
    """Those that were looked at, and had ended by then."""
    whole: bool
    """Whether all of a group's processes are in it, as far as can be told."""


class Recorded(NamedTuple):
    """The manifest of a core."""

    manifest: Manifest
    process: dict[str, Any]
    """What is known of the process; ``docs/process.md`` says what stands under each key."""

    def to_json(self) -> str:
        """Give the text of the file."""
        text = self.manifest.to_json().rstrip()
        process = json.dumps({"process": self.process}, indent=2)
        return f"{text[:-2]},\n{process[2:-2]}\n}}\n"

    def json_pieces(self) -> Iterator[bytes]:
        """Give the text of the file in pieces; there is little of it."""
        yield self.to_json().encode()

    @property
    def complete(self) -> bool:
        """Whether the core is whole."""
        return self.manifest.complete

    @property
    def written(self) -> Written | None:
        """What was written."""
        return self.manifest.written

    def closed(self, written: Written, failure: str | None) -> Recorded:
        """Complete it with what became of the file."""
        return self._replace(manifest=machine_record.closed(self.manifest, written, failure))


def record(
    version: str,
    arguments: Sequence[str],
    target: Target,
    captured: Captured,
    found: Core,
    taken: Taken,
    ended: Ended,
    together: Together,
) -> Recorded:
    """Put the manifest together, as far as it is known before the core is closed."""
    facts = Manifest(
        memdump=version,
        command=manifest.command(arguments),
        host=host.this_host(),
        started=taken.started,
        ended=taken.ended,
        source=SOURCE,
        ranges=[Range(part.start, part.size) for part in found.parts],
        stream=Stream(FORMAT, taken.size, taken.sha256),
        complete=taken.stopped_by is None,
        stopped_by=taken.stopped_by,
        timings=Timings(
            total=taken.total_seconds,
            reading=taken.reading_seconds,
            hashing=taken.hashing_seconds,
            writing=taken.writing_seconds,
        ),
        vmcoreinfo=None,
        acquired_by=Operator(
            host.printable(os.uname().nodename), machine_record.user(), taken.started, host.now()
        ),
        skipped=[Skipped(reason, ranges) for reason, ranges in found.skipped.items()],
        unreadable=taken.unreadable,
        not_taken=taken.not_taken,
        pauses=[pause / 1e9 for pause in ended.pauses],
    )
    return Recorded(facts, _process(target, captured, found, ended, together))


def _process(
    target: Target, captured: Captured, found: Core, ended: Ended, together: Together
) -> dict[str, Any]:
    return {
        "pid": captured.pid,
        "name": captured.stat.comm.decode("utf-8", "backslashreplace"),
        "executable": target.executable,
        "uid": target.owner.uid,
        "gid": target.owner.gid,
        "threads": len(captured.threads),
        "mode": captured.mode,
        "mode_asked": target.asked,
        "why_not": captured.reason or target.reason,
        "pause_us": [pause // 1000 for pause in ended.pauses],
        "live": _pairs(found.live),
        "read_in_the_stop": _pairs(found.read_early),
        "left_behind": ended.left,
        "together": together._asdict(),
    }


def _pairs(ranges: Sequence[Range]) -> list[list[Any]]:
    return [[hex(found.start), found.size] for found in ranges]
