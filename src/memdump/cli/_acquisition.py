"""The steps of an acquisition that are between its options and its exit status."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from memdump import __version__
from memdump.cli import _sealing
from memdump.errors import MemdumpError, UsageError
from memdump.machine import custody, destination, estimate, host, manifest, pieces, record, sshsig
from memdump.machine.acquire import Plan, acquire, image_size
from memdump.machine.arrived import Course, cut
from memdump.machine.manifest import Refused, Written
from memdump.machine.output import refuse_existing, write_file
from memdump.machine.pipeline import Digest
from memdump.machine.progress import Progress, duration
from memdump.machine.record import Steps
from memdump.machine.spill import SpillFile
from memdump.machine.stage import Stage
from memdump.report.text import visible

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from memdump.machine.acquire import Taken
    from memdump.machine.destination import Destination
    from memdump.machine.interrupt import Interrupt
    from memdump.machine.manifest import Manifest
    from memdump.machine.output import Content
    from memdump.machine.pipeline import Stream
    from memdump.machine.source import Range, Source
    from memdump.machine.sources import Chosen
    from memdump.seal import Sealed, Sealing

_ADDRESS = re.compile(r"tcp:|[a-z][a-z0-9]*://", re.IGNORECASE)
_END = 4 << 20
"""Bytes that the end of an image may take beside its last piece: the manifest inside it, and the like."""
_TABLE_SHARE = 1 << 14
"""A compressed image has a table at its end; it takes less than this part of the memory."""
_SPARED = 1 << 30
"""Bytes that early copies leave free on a disk, beside what the image takes."""
_INCOMPLETE = 1
_ADDED = "of memory were added to the machine meanwhile and are not in the image"
_REMOVED = "of memory were taken from the machine meanwhile, and stand as zeros where not read before"


class Layout(NamedTuple):
    """What is going to be written where."""

    out: str
    """What ``destination.open_destination`` is given."""
    name: str
    """The image's place, as a user knows it."""
    path: Path | None
    """The image, where it is a file here."""
    sealing: Sealing
    options: destination.Options

    @property
    def on_disk(self) -> Path | None:
        """Where a disk here takes it, be it for a while."""
        return self.options.spool / self.options.name if self.options.spool else self.path


class Facts(Protocol):
    """A manifest, be it of an image or of a core."""

    @property
    def complete(self) -> bool:
        """Whether what was taken is whole."""

    def json_pieces(self) -> Iterator[bytes]:
        """Give the text of the file, in pieces."""


def plan(args: argparse.Namespace, source: Source, sealing: Sealing) -> Layout:
    """Decide on names and sizes; raises `UsageError` where they make no sense."""
    if not args.out:
        raise UsageError("OUT is empty: name a file, a folder or an address")
    name = _sealing.named(host.image_name(source.host().hostname), sealing)
    out, path = args.out, path_of(args.out, name, sealing)
    check_place(args, out, path)
    _check_spool(args, path)
    check_manifest(args, out, path, beside=bool(args.spool))
    _check_source(args, source)
    if path is not None:
        out, name = str(path), path.name
    ranges = source.ranges()
    size = image_size(ranges)
    options = destination.Options(
        name=name,
        layers=sealing.layers,
        size=size,
        exact=not sealing.layers and not args.skip,
        attachments=_beside(args),
        reserve=pieces.piece_size(ranges) + size // _TABLE_SHARE + _END,
        split=args.split,
        spool=Path(args.spool) if args.spool else None,
        tls=args.tls,
        tls_ca=args.tls_ca,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
    )
    return Layout(out, str(path or destination.shown(out)), path, sealing, options)


def is_address(out: str) -> bool:
    """Whether ``OUT`` names a place in a network."""
    return bool(_ADDRESS.match(out))


def path_of(out: str, name: str, sealing: Sealing) -> Path | None:
    """Give the file here that ``OUT`` names, be it by its folder alone; None where there is none."""
    if out == "-" or is_address(out):
        return None
    path = Path(out)
    return path / name if path.is_dir() else path.with_name(_sealing.named(path.name, sealing))


def check_place(args: argparse.Namespace, out: str, path: Path | None) -> None:
    """Refuse what would be passed over at this place."""
    scheme = out.partition(":")[0].lower() if path is None else ""
    if args.split and path is None:
        raise UsageError("--split is for files: name one, or a folder")
    for option, given, schemes in (
        ("--tls", args.tls, ("tcp",)),
        ("--tls-ca", args.tls_ca, ("tcp", "https")),
        ("--tls-cert", args.tls_cert, ("tcp", "https")),
        ("--tls-key", args.tls_key, ("tcp", "https")),
    ):
        if given and scheme not in schemes:
            raise UsageError(f"{option} is for {' and '.join(f'{name}:' for name in schemes)} only")


def _check_spool(args: argparse.Namespace, path: Path | None) -> None:
    scheme = args.out.partition(":")[0].lower() if path is None else ""
    if args.spool and scheme not in ("http", "https"):
        raise UsageError("--spool is for http: and https: only; all else takes an image of any length")


def _check_source(args: argparse.Namespace, source: Source) -> None:
    """Refuse what was asked for and cannot be had of this source; what is only the default gives way."""
    if args.max_rate and source.pauses_machine:
        raise UsageError(
            "--max-rate would have the guest stand still for longer: add --live, which does not stop it, or"
            " leave the option out"
        )
    for option, given in (("--skip free", args.skip), ("--order kernel-first", args.order == "kernel-first")):
        if given and not _tells_pages(source):
            raise UsageError(
                f"{option}: the source {source.name} does not tell what its pages are (/proc/kpageflags);"
                " leave the option out"
            )


def _tells_pages(source: Source) -> bool:
    try:
        return bool(source.page_flags(source.ranges()[0].start, source.page_size))
    except OSError:
        return False


def check_manifest(args: argparse.Namespace, out: str, path: Path | None, *, beside: bool = False) -> None:
    """See that the manifest finds its place, before memory is taken that it is to tell of.

    ``beside`` says that there is one beside the image, whatever ``OUT`` is.
    """
    if args.manifest is None:
        alone = out == "-" or (path is None and out.lower().startswith("http"))
        if args.sign and alone and not beside:
            raise UsageError(
                "--sign signs the manifest, and there is no place beside the image: add --manifest FILE"
            )
        return
    if args.manifest in ("", "-"):
        raise UsageError(f"--manifest {args.manifest!r}: name a file")
    wanted = Path(args.manifest)
    destination.room(wanted)
    if path is not None and wanted.absolute() == path.absolute():
        raise UsageError(f"--manifest {wanted}: is the image; name another file")
    for suffix in ("", *((sshsig.SUFFIX[len(manifest.SUFFIX) :],) if args.sign else ())):
        refuse_existing(f"{wanted}{suffix}")
        refuse_existing(f"{wanted}{suffix}.part")


def _beside(args: argparse.Namespace) -> tuple[str, ...]:
    """The suffixes of what is put beside the image."""
    manifests = () if args.manifest else (manifest.SUFFIX, *((sshsig.SUFFIX,) if args.sign else ()))
    return (*manifests, custody.SUFFIX)


def check_room(layout: Layout, source: Source, *, skip_free: bool) -> None:
    """Refuse a file that lies in memory or finds no room; what takes less is estimated from a sample."""
    if layout.on_disk is None:
        return
    free, _ = destination.room(layout.on_disk)
    expected = layout.options.size
    if not layout.options.exact and free is not None and free < expected:
        expected = sample(source, layout.sealing, skip_free=skip_free).image
    destination.check(layout.on_disk, expected)


def sample(source: Source, sealing: Sealing, *, skip_free: bool) -> estimate.Estimate:
    """Estimate what an acquisition takes."""

    def seal(stream: Stream) -> tuple[Stream, estimate.Finish]:
        digest = Digest(stream) if sealing.layers else None
        sealed = sealing.upon(digest or stream)

        def finish() -> None:
            sealed.close()
            if digest:
                digest.close()

        return sealed, finish

    found = estimate.estimate(source, seal)
    if not skip_free or not found.memory:
        return found
    return found._replace(image=int(found.image * (1 - found.free / found.memory)))


def take(
    args: argparse.Namespace, chosen: Chosen, layout: Layout, target: Destination, interrupt: Interrupt
) -> int:
    """Acquire, close the image, put its manifest beside it, and say how it went."""
    source = chosen.source
    known = record.Circumstances(
        memdump=__version__,
        arguments=sys.argv,
        host=source.host(),
        source=source.name,
        evidence=source.evidence,
        refused=[Refused(*refused) for refused in chosen.refused],
        vmcoreinfo=source.vmcoreinfo,
        started=host.now(),
    )
    # What is not wrapped in anything is digested once.
    digest = Digest(target) if layout.sealing.layers else None
    sealed = layout.sealing.upon(digest or target)
    course: Course = Course(sealed, lambda: sealed.arrived(digest.size if digest else course.size))
    with _stage(args, layout, source) as stage:
        how = Plan(stage, args.skip == "free", args.max_rate)
        taken = _acquire(source, course, how, layout, target, interrupt)
    steps = Steps(digest.writing_seconds, *sealed.seconds) if digest else None
    facts = record.record(known, taken, steps)
    failure = end(facts, sealed, target)
    size, sha256 = (digest.size, digest.close()) if digest else (taken.size, taken.sha256)
    arrived = sealed.arrived(size) if failure else taken.size
    if failure and arrived != taken.size:
        reached = course.reached(arrived) // source.page_size * source.page_size
        facts = record.record(known, cut(taken, arrived, reached, failure), steps)
    name = target.file and host.printable(target.file)
    written = Written(name, size, sha256, layout.sealing.layers, target.parts)
    facts = record.closed(facts, written, failure)
    status = max(_report(facts), attach(args, facts, target))
    begin_custody(layout, facts, written, target)
    if not facts.complete or not _deliver(target, written.size, interrupt):
        return _INCOMPLETE
    if layout.out != "-":
        print(target.place)
    return status


def _deliver(target: Destination, size: int, interrupt: Interrupt) -> bool:
    """Have it sent on, where it was only kept here so far; whether it is where it should be."""
    progress = Progress(size)
    try:
        target.deliver(progress, lambda: interrupt.received and f"stopped by {interrupt.received}")
    except MemdumpError as error:
        progress.clear()
        _say(str(error))
        return False
    progress.clear()
    return True


@contextlib.contextmanager
def _stage(args: argparse.Namespace, layout: Layout, source: Source) -> Iterator[Stage | None]:
    """Give a place for early copies, unless the order is to be ascending or the machine stands still."""
    if args.order == "ascending" or (source.pauses_machine and not args.order):
        yield None
        return
    with contextlib.ExitStack() as stack:
        spill = None
        if layout.on_disk is not None:
            with contextlib.suppress(OSError):
                spill = SpillFile(str(layout.on_disk.parent), layout.options.size + _SPARED)
                stack.callback(spill.close)
        yield Stage(source.page_size, layout.sealing.packing(), spill, layout.options.size)


def _acquire(
    source: Source, stream: Stream, how: Plan, layout: Layout, target: Destination, interrupt: Interrupt
) -> Taken:
    progress = Progress(layout.options.size)

    def show(done: int) -> None:
        # What is taken early is read again in its turn; how much that is shows in the sweep.
        progress.total = layout.options.size + (how.stage.read if how.stage else 0)
        progress(done)

    def stop() -> str | None:
        return interrupt.received and f"stopped by {interrupt.received}; {target.partial}"

    def trouble() -> str | None:
        return target.trouble and f"{layout.name}: {target.trouble}; {target.partial}"

    try:
        return acquire(source, stream, how, show, stop, trouble)
    finally:
        progress.clear()


def end(facts: Facts, sealed: Sealed, target: Destination) -> str | None:
    """End the image, with a copy of the manifest in it where there is room; give what goes wrong."""
    try:
        sealed.close(facts.json_pieces)
        if facts.complete:
            target.commit()
    except MemdumpError as error:
        return str(error)
    finally:
        target.abandon()
    return None


def attach(args: argparse.Namespace, facts: Facts, target: Destination) -> int:
    """Put manifest and signature in their places; the image is there by now, whatever happens to them."""
    try:
        _put(args, target, manifest.SUFFIX, facts.json_pieces())
    except MemdumpError as error:
        _say(f"{error}; the manifest follows, since it is to be had nowhere else:")
        for piece in facts.json_pieces():
            print(piece.decode(), end="", file=sys.stderr)
        return _INCOMPLETE
    try:
        if args.sign:
            _put(args, target, sshsig.SUFFIX, _sign(facts, args.sign))
    except MemdumpError as error:
        _say(str(error))
        return _INCOMPLETE
    return 0


def _put(args: argparse.Namespace, target: Destination, suffix: str, content: Content) -> None:
    if args.manifest:
        write_file(args.manifest + suffix[len(manifest.SUFFIX) :], content)
    elif target.attaches:
        target.attach(suffix, content)
    elif target.file is not None:
        _say(f"{target.file}{suffix} finds no place beside the image: --manifest FILE names one here")


def _sign(facts: Facts, key: str) -> bytes:
    if sshsig.wants_touch(key):
        _say(f"{key}: touch the token to sign the manifest")
    try:
        return sshsig.sign(facts.json_pieces(), key)
    except MemdumpError as error:
        later = f"ssh-keygen -Y sign -n {sshsig.NAMESPACE} -f KEY MANIFEST"
        raise MemdumpError(f"{error}; the manifest is not signed, which '{later}' makes up for") from None


def begin_custody(layout: Layout, facts: Facts, written: Written, target: Destination) -> None:
    """Begin the record of custody; the image is as good without one, so a failure is only said."""
    try:
        if layout.path is not None:
            image = target.place if facts.complete else f"{target.place}.part"
            custody.append(image, "acquired", sha256=written.sha256)
        elif target.attaches:
            subject = custody.Subject(written.name or layout.options.name, written.size, written.sha256)
            target.attach(custody.SUFFIX, custody.first("acquired", subject))
    except MemdumpError as error:
        _say(str(error))


def _report(taken: Manifest) -> int:
    """Say how it went, and give the exit status."""
    amount = sum(found.size for found in taken.ranges)
    if taken.stopped_by:
        missing = sum(found.size for found in taken.not_taken)
        _say(f"{taken.stopped_by} ({(amount - missing) >> 20:,} of {amount >> 20:,} MiB)")
        _say_ranges(taken.added, _ADDED)
        _say_ranges(taken.removed, _REMOVED)
        return _INCOMPLETE
    seconds = taken.timings.total
    _say(f"{amount >> 20:,} MiB in {duration(seconds)} ({amount / seconds / (1 << 20):,.0f} MiB/s)")
    assert taken.written is not None
    _say(f"{taken.written.size >> 20:,} MiB written, SHA-256 {taken.written.sha256}")
    if taken.pauses:
        _say(f"the machine stood still for {sum(taken.pauses) * 1000:,.0f} ms")
    return max(
        _say_ranges(taken.unreadable, "could not be read and stand as zeros in the image"),
        _say_ranges(taken.added, _ADDED),
        _say_ranges(taken.removed, _REMOVED),
    )


def _say_ranges(ranges: Sequence[Range], what: str) -> int:
    """Say what is wrong with them, where there are any, and give the exit status."""
    if not ranges:
        return 0
    where = ", ".join(f"{found.start:#x}-{found.end - 1:#x}" for found in ranges[:3])
    more = ", ..." if len(ranges) > 3 else ""
    _say(f"{sum(found.size for found in ranges):,} bytes {what}: {where}{more}")
    return _INCOMPLETE


def _say(line: str) -> None:
    print(f"memdump: {visible(line)}", file=sys.stderr)
