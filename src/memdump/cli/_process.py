"""The steps of ``memdump process`` that are between its options and its exit status."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memdump import __version__
from memdump.cli import _acquisition, _sealing
from memdump.cli._acquisition import Layout
from memdump.errors import MemdumpError, UsageError
from memdump.machine import custody, destination, host, manifest, sshsig
from memdump.machine.file_destination import check_names
from memdump.machine.manifest import Written
from memdump.machine.pipeline import Digest
from memdump.machine.progress import Progress, duration
from memdump.process import precopy, record, take
from memdump.process.capture import FREEZE, PRECOPY, Gone, Unwatched
from memdump.process.precopy import Precopy
from memdump.process.sparse import Sparse
from memdump.report.text import visible

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from memdump.machine.destination import Destination
    from memdump.machine.interrupt import Interrupt
    from memdump.process.capture import Captured
    from memdump.process.guardian import Ended, Guardian, Held
    from memdump.process.record import Recorded, Together
    from memdump.process.selection import Choice
    from memdump.process.take import Core, Taken
    from memdump.process.target import Target
    from memdump.seal import Sealed, Sealing

_INCOMPLETE = 1
_SHOWN = 8


class Job(NamedTuple):
    """A process, and what becomes of it."""

    target: Target
    choice: Choice
    layout: Layout


class Begun(NamedTuple):
    """A core that was begun before its process is stopped."""

    place: Destination
    precopy: Precopy


def decide(args: argparse.Namespace, jobs: list[Job], *, grouped: bool) -> list[Job]:
    """See whether a process can be copied while it runs, if that was asked for."""
    if args.mode != PRECOPY:
        return jobs
    job, target = jobs[0], jobs[0].target
    if len(jobs) > 1 or grouped:
        reason: str | None = "several processes are taken at one instant by copies of them"
    elif not _is_plain(args, job):
        reason = "only a plain file, without --split, --sign and --digest, is written in any order"
    else:
        reason = precopy.reason_against(target.pid) if target.lendable else target.reason
    if reason is None:
        return [job._replace(target=target.beforehand)]
    _say(f"process {target.pid} is not copied while it runs: {reason}")
    return jobs


def _is_plain(args: argparse.Namespace, job: Job) -> bool:
    layout = job.layout
    return layout.path is not None and not args.split and _is_hasty(args, layout)


def _is_hasty(args: argparse.Namespace, layout: Layout) -> bool:
    """Whether no digest is wanted, which takes longer than all the rest."""
    return not (args.digest or args.sign or layout.sealing.layers)


def begin(
    guardian: Guardian, jobs: Sequence[Job], interrupt: Interrupt, stack: contextlib.ExitStack
) -> Begun | None:
    """Copy a process while it runs, where that was decided; the place is left when ``stack`` is.

    Raises `MemdumpError` where it comes to an early end, and leaves nothing behind.
    """
    job = jobs[0]
    if job.target.mode != PRECOPY:
        return None
    pid = job.target.pid
    try:
        guardian.watch(pid)
    except Unwatched:  # it is told in the end
        return None
    place = stack.enter_context(destination.open_destination(job.layout.out, job.layout.options))
    assert place.output is not None
    place.output.keep_partial = False
    try:
        begun = Precopy(pid, place.output, job.target.details, job.choice)
        stack.callback(begun.close)
        _copy(begun, guardian, place, interrupt)
    except (OSError, Gone):
        raise Gone(precopy.GONE) from None
    return Begun(place, begun)


def _copy(begun: Precopy, guardian: Guardian, place: Destination, interrupt: Interrupt) -> None:
    def stop() -> str | None:
        if not guardian.is_there():
            return "memdump's guardian was killed; nothing was kept"
        if interrupt.received:
            return f"stopped by {interrupt.received} before the process was taken; nothing was kept"
        return place.trouble and f"{place.place}: {place.trouble}; nothing was kept"

    with _progress(begun.size) as progress:
        begun.copy(progress, stop)


@contextlib.contextmanager
def _progress(size: int) -> Iterator[Progress]:
    """Show how far it is, and take that away in the end."""
    progress = Progress(size)
    try:
        yield progress
    finally:
        progress.clear()


def check_place(args: argparse.Namespace, out: str, count: int) -> None:
    """Refuse a place that is none, or has no room for the cores of several processes."""
    if not out:
        raise UsageError("OUT is empty: name a file, a folder or an address")
    if out == "-" and sys.stdout is None:
        raise UsageError("standard output is closed: name a file")
    if out.endswith("/") and not _acquisition.is_address(out) and not Path(out).is_dir():
        raise UsageError(f"{out}: there is no such folder; name one that exists")
    if count == 1:
        return
    if out == "-" or _acquisition.is_address(out) or not Path(out).is_dir():
        raise UsageError(f"{out}: {count} cores need a folder to stand in; name one that exists")
    if args.manifest is not None:
        raise UsageError("--manifest is for one process; the manifests of several stand beside their cores")


def layout(args: argparse.Namespace, out: str, target: Target, sealing: Sealing) -> Layout:
    """Decide on the names of one core."""
    name = _sealing.named(_name(target), sealing)
    path = _acquisition.path_of(out, name, sealing)
    _acquisition.check_place(args, out, path)
    _acquisition.check_manifest(args, out, path)
    if path is not None:
        out, name = str(path), path.name
    beside = () if args.manifest else (manifest.SUFFIX, *((sshsig.SUFFIX,) if args.sign else ()))
    options = destination.Options(
        name=name,
        layers=sealing.layers,
        attachments=(*beside, *((custody.SUFFIX,) if path else ())),
        split=args.split,
        hasty=True,
        tls=args.tls,
        tls_ca=args.tls_ca,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
    )
    if path is not None:
        _check_path(path, options, 0 if sealing.layers else target.resident)
    elif out != "-":
        destination.check_address(out, options)
    return Layout(out, str(path or destination.shown(out)), path, sealing, options)


def _check_path(path: Path, options: destination.Options, size: int) -> None:
    """Refuse a core that could not be written, before its process is stopped for it."""
    free, _ = destination.room(path)
    check_names(path, options)
    if free is not None and free < size:
        raise UsageError(
            f"{path.parent} has room for {free >> 20} MiB, and the core takes {size >> 20}: name a file on"
            " another disk, compress it (.zst), or send it on through standard output (-)"
        )


def _name(target: Target) -> str:
    """Name a core after its process and the time: ``nginx-4711-20260131T235959Z.core``."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "_" for c in target.name)
    return (
        f"{safe.lstrip('.') or 'process'}-{target.pid}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.core"
    )


def announce(jobs: Sequence[Job], sealing: Sealing) -> None:
    """Say which processes are going to stand still, and that what is written is not encrypted."""
    for one in jobs:
        if one.target.reason:
            _say(f"process {one.target.pid} stands still while it is read: {one.target.reason}")
    _sealing.warn(sealing, jobs[0].layout.name if len(jobs) == 1 else "what is written")


def tell_of_set(held: Held, missing: Sequence[int], named: Sequence[int]) -> int:
    """Say which processes are no more, and which have come meanwhile; gives the exit status.

    Those of a group are in it as long as they are there; one that was named is missing.
    """
    gone = [*missing, *held.ended]
    for pid in gone:
        if pid in named:
            _say(f"process {pid} has ended: it is left out")
    others = [pid for pid in gone if pid not in named]
    if others:
        _say(f"ended before all stood, and left out: {_list(others)}")
    if held.joined:
        _say(f"begun before all stood, and taken too: {_list([one.pid for one in held.joined])}")
    if not held.whole:
        _say("processes begin and end faster than they can be stopped: some may be missing; try --mode live")
    return _INCOMPLETE if len(others) < len(gone) or not held.whole else 0


def _list(pids: Sequence[int]) -> str:
    some = ", ".join(map(str, pids[:_SHOWN]))
    return f"{some} and {len(pids) - _SHOWN} more" if len(pids) > _SHOWN else some


def take_all(
    args: argparse.Namespace,
    guardian: Guardian,
    jobs: Sequence[Job],
    held: Held,
    missing: Sequence[int],
    interrupt: Interrupt,
    begun: Begun | None,
) -> int:
    """Write the cores of the processes that are held, one after the other; ``begun`` is the only one."""
    captured = {one.pid: one for one in held.captured}
    together = record.Together(list(captured), [*missing, *held.ended], held.whole)
    once = take.SharedOnce() if args.shared_once else None
    status = 0
    for job in jobs:
        if job.target.pid not in captured:
            continue
        found, target = captured[job.target.pid], job.target
        with contextlib.ExitStack() as stack:
            stack.callback(guardian.release, found.pid)
            writing = _Writing(args, guardian, job, found, interrupt, together)
            if begun:
                return max(status, writing.end(begun))
            try:
                core = stack.enter_context(
                    take.core(found, guardian, target.details, job.choice, target.owner, once)
                )
                place = stack.enter_context(destination.open_destination(job.layout.out, job.layout.options))
            except (MemdumpError, OSError) as error:  # it has ended, its copy was killed, or its place taken
                if not isinstance(error, MemdumpError):
                    error = MemdumpError(f"process {found.pid}: {error.strerror}")
                if len(captured) == 1:
                    raise error from None
                _say(f"{error}; it is left out")
                status = _INCOMPLETE
                continue
            status = max(status, writing.all(core, place))
    return status


class _Writing(NamedTuple):
    """The core of one process that is held, and how it comes to its place."""

    args: argparse.Namespace
    guardian: Guardian
    job: Job
    captured: Captured
    interrupt: Interrupt
    together: Together

    def all(self, core: Core, place: Destination) -> int:
        """Write all of it; gives the exit status."""
        layout = self.job.layout
        digest = Digest(place) if layout.sealing.layers else None
        sealed = layout.sealing.upon(digest or Sparse(place))
        with _progress(core.size) as progress:
            if place.output and _is_hasty(self.args, layout):
                taken = take.copy(core, place.output, progress, self._stop(place))
            else:
                taken = take.write(core, sealed, progress, self._stop(place))
        return self._close(core, taken, sealed, digest, place)

    def end(self, begun: Begun) -> int:
        """Write what is missing of one that was begun; gives the exit status."""
        place, owner = begun.place, self.job.target.owner
        if place.output:
            place.output.keep_partial = True  # from now on there is something in it
        with _progress(begun.precopy.size) as progress:
            core, taken = begun.precopy.finish(
                self.captured, self.guardian, owner, progress, self._stop(place)
            )
        return self._close(core, taken, self.job.layout.sealing.upon(Sparse(place)), None, place)

    def _stop(self, place: Destination) -> Callable[[], str | None]:
        def stop() -> str | None:
            if self.interrupt.received:
                return f"stopped by {self.interrupt.received}; {place.partial}"
            return place.trouble and f"{self.job.layout.name}: {place.trouble}; {place.partial}"

        return stop

    def _close(
        self, core: Core, taken: Taken, sealed: Sealed, digest: Digest | None, place: Destination
    ) -> int:
        """Let the process go, and give the core its name and what stands beside it."""
        layout, captured = self.job.layout, self.captured
        ended = self.guardian.release(captured.pid)
        facts = record.record(
            __version__, sys.argv, self.job.target, captured, core, taken, ended, self.together
        )
        failure = _acquisition.end(facts, sealed, place)
        size, sha256 = (digest.size, digest.close()) if digest else (taken.size, taken.sha256)
        name = place.file and host.printable(place.file)
        written = Written(name, size, sha256, layout.sealing.layers, place.parts)
        facts = facts.closed(written, failure)
        status = max(_report(facts, captured, ended), _acquisition.attach(self.args, facts, place))
        _acquisition.begin_custody(layout, facts, written, place)
        if facts.complete and layout.out != "-":
            print(place.place)
        return status


def _report(facts: Recorded, captured: Captured, ended: Ended) -> int:
    """Say how it went, and give the exit status."""
    if captured.reason:
        how = "stood still while it was read" if captured.mode == FREEZE else "was copied by fork"
        _say(f"process {captured.pid} {how}: {captured.reason}")
    stood = " and ".join(f"{pause / 1e6:,.1f} ms" for pause in ended.pauses)
    _say(f"process {captured.pid} ({captured.stat.comm.decode(errors='replace')}) stood still for {stood}")
    if ended.left:
        _say(f"process {captured.pid}: {ended.left}")
    found = facts.manifest
    if found.stopped_by:
        _say(found.stopped_by)
        return _INCOMPLETE
    assert found.written is not None
    amount = sum(one.size for one in found.ranges)
    digest = f"; SHA-256 {found.written.sha256}" if found.written.sha256 else ""
    how = f"{captured.mode} mode{digest}"
    _say(f"{amount >> 20:,} MiB in {duration(found.timings.total)}, {how}")
    live = sum(size for _, size in facts.process["live"])
    if live and captured.mode != "live":
        _say(f"{live >> 10:,} KiB of it are shared with a running process, and were read as they changed")
    lost = sum(one.size for one in found.unreadable)
    if not lost:
        return 0
    where = ", ".join(f"{one.start:#x}-{one.end - 1:#x}" for one in found.unreadable[:3])
    _say(f"{lost:,} bytes could not be read and stand as zeros in the core: {where}")
    return _INCOMPLETE


def _say(line: str) -> None:
    print(f"memdump: {visible(line)}", file=sys.stderr)
