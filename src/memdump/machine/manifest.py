"""The manifest: what was taken, from where, when and how whole; it stands beside the image, ``IMAGE.json``.

``docs/manifest.md`` describes every key for those who read it with something else than memdump.
"""

import calendar
import json
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from memdump.errors import NotADump, NotPermitted
from memdump.machine import document
from memdump.machine.document import Fields
from memdump.machine.host import Host, Instant, printable
from memdump.machine.source import Range

SUFFIX = ".json"
FORMAT = "memdump manifest"
VERSION = 2
LARGEST = 128 << 20
"""Bytes; a manifest of a terabyte machine is some kilobytes, without its free pages it may be 50 MB."""

_AT_ONCE = 64 << 10
"""Characters of a piece of the text, about."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BEHIND = re.compile("([?#]).*", re.DOTALL)
_REMOVED = "[removed]"
_KEPT = rf"\1{_REMOVED}"


class Operator(NamedTuple):
    """Who acquired, on which machine, and what its clocks showed.

    For a remote source that is the analyst's machine.
    """

    hostname: str
    user: str
    started: Instant
    ended: Instant


class Refused(NamedTuple):
    """A source that was not taken, and why."""

    source: str
    reason: str


class Staged(NamedTuple):
    """The kernel's own pages, which ``kernel-first`` reads before all others."""

    size: int
    """Bytes that were read first."""
    no_room: int
    """Bytes for which there was no room, so that they were read with the rest."""


class Skipped(NamedTuple):
    """What was left out on purpose."""

    reason: str
    """``free``: the kernel said that nothing uses these pages."""
    ranges: Sequence[Range]


class Stream(NamedTuple):
    """The image as it was taken, before it was compressed or encrypted."""

    format: str
    """``lime``, or ``elf-core`` of a process."""
    size: int
    sha256: Optional[str]
    """None for a core of which no digest was taken, and where the destination failed and less arrived."""


class Part(NamedTuple):
    """One file of an image that was split."""

    name: str
    size: int
    sha256: str


class Written(NamedTuple):
    """The image as it was written."""

    name: Optional[str]
    """Of the file, without its folder; none for standard output."""
    size: int
    sha256: Optional[str]
    """Over all parts, one after the other, where it was split; None as for the stream."""
    layers: Sequence[str] = ()
    """What the stream was put through, in this order: ``zstd``, ``age``."""
    parts: Sequence[Part] = ()
    """The files it was split into, in order; none where it is one file."""


class Timings(NamedTuple):
    """Seconds that the steps were busy; they run side by side, so their sum exceeds ``total``.

    Where a step has several threads, it is as if all of them had been busy at the same time.
    """

    total: float
    reading: float
    hashing: float
    writing: float
    compressing: float = 0.0
    encrypting: float = 0.0
    staging: float = 0.0
    """The sweep over the kernel's pages, before all else; no part of ``reading``."""


class Manifest(NamedTuple):
    """What is known about one acquisition."""

    memdump: str
    """The version of memdump."""
    command: Sequence[str]
    """The command line, as `command` gives it."""
    host: Host
    """The machine whose memory it is."""
    started: Instant
    """Its clocks before the first byte."""
    ended: Instant
    """Its clocks after the last byte."""
    source: str
    ranges: Sequence[Range]
    """What was to be taken; all of it is there if ``complete``."""
    stream: Stream
    complete: bool
    """Whether the image holds all ranges; unreadable pages are no reason against it."""
    stopped_by: Optional[str]
    """Why it is not complete."""
    timings: Timings
    vmcoreinfo: Optional[str]
    written: Optional[Written] = None
    """None in the copy inside the image, which cannot know it."""
    acquired_by: Optional[Operator] = None
    evidence: Optional[str] = None
    """How it is known what the source reads, such as where the direct map was found."""
    refused: Sequence[Refused] = ()
    order: str = "ascending"
    """``ascending`` by address, or ``kernel-first``."""
    staged: Optional[Staged] = None
    skipped: Sequence[Skipped] = ()
    unreadable: Sequence[Range] = ()
    """What could not be read and stands as zeros in the image."""
    not_taken: Sequence[Range] = ()
    """What of ``ranges`` is missing at the end, where it is not complete."""
    pauses: Sequence[float] = ()
    """Seconds for which the machine stood still, each time."""
    added: Sequence[Range] = ()
    """Memory that the machine was given meanwhile, of which nothing was taken."""
    removed: Sequence[Range] = ()
    """What of ``ranges`` the machine lost meanwhile; it stands as zeros where it was not read before."""

    def to_json(self) -> str:
        """Give the text of the file."""
        return b"".join(self.json_pieces()).decode()

    def json_pieces(self) -> Iterator[bytes]:
        """Give the text of the file in pieces: with all free pages left out it may take 50 MB."""
        waiting, size = [], 0
        for part in self._spelled():
            waiting.append(part)
            size += len(part)
            if size >= _AT_ONCE:
                yield "".join(waiting).encode()
                waiting, size = [], 0
        yield "".join(waiting).encode()

    def _spelled(self) -> Iterator[str]:
        values: Dict[str, Any] = {"format": FORMAT, "version": VERSION}
        values.update(self._asdict())
        values["clock_offsets_ns"] = self.clock_offsets_ns
        yield from _spelled(values, "")
        yield "\n"

    @property
    def clock_offsets_ns(self) -> Tuple[int, int]:
        """The host's wall clock minus the time since its boot, at the start and at the end.

        They differ by what the wall clock was set by meanwhile, to a microsecond.
        """
        return _offset(self.started), _offset(self.ended)


def path_of(image: str) -> str:
    """Name the manifest that belongs to an image, finished or not."""
    return (image[: -len(".part")] if image.endswith(".part") else image) + SUFFIX


def command(arguments: Sequence[str]) -> List[str]:
    """Give a command line as a manifest holds it: without the secrets that addresses carry.

    What stands behind ``?`` or ``#`` (a signature that lets anybody write there) and before ``@`` (a
    password) is replaced by ``[removed]``; the user of an ``ssh`` address stays.
    """
    return [_URL.sub(_without_secrets, printable(argument)) for argument in arguments]


def _without_secrets(found: "re.Match[str]") -> str:
    scheme, rest = found[1], found[2]
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    if at:
        name, colon, _ = user.partition(":")
        place = (name + (colon and f":{_REMOVED}") if scheme == "ssh" else _REMOVED) + at + host
    return f"{scheme}://{_BEHIND.sub(_KEPT, place + slash + path)}"


def load(path: Union[str, Path]) -> Manifest:
    """Read a manifest; raises `NotADump` where the file is none, `NotPermitted` where it may not be read."""
    data = read(path)
    try:
        return parse(data)
    except NotADump as error:
        raise NotADump(f"{path}: {error}") from None


def read(path: Union[str, Path]) -> bytes:
    """Read the bytes of a manifest, which a signature is over; raises as `load` does."""
    try:
        with Path(path).open("rb") as file:
            return file.read(LARGEST + 1)
    except PermissionError as error:
        raise NotPermitted(f"{path}: {error.strerror}") from None
    except OSError as error:
        raise NotADump(f"{path}: {error.strerror}") from None


def parse(data: bytes) -> Manifest:
    """Read the text of a manifest, which may be anybody's; raises `NotADump` with what is wrong with it."""
    if len(data) > LARGEST:
        raise NotADump("too large for a manifest")
    try:
        values = document.read(data)
    except ValueError:
        raise NotADump("not a manifest: it is not valid JSON") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise NotADump("not a manifest of memdump")
    version = values.get("version")
    if version == 1 and version is not True:
        values = _from_version_1(values)
    elif version != VERSION:
        raise NotADump(f"a manifest of version {version!r:.20}; this memdump reads 1 to {VERSION}")
    return _manifest(Fields(values, "manifest"))


def _manifest(found: Fields) -> Manifest:
    written, operator = found.optional_fields("written"), found.optional_fields("acquired_by")
    staged = found.optional_fields("staged")
    return Manifest(
        memdump=found.text("memdump"),
        command=found.texts("command"),
        host=found.host("host"),
        started=found.instant("started"),
        ended=found.instant("ended"),
        source=found.text("source"),
        ranges=found.ranges("ranges"),
        stream=_stream(found.fields("stream")),
        complete=found.get("complete", bool),
        stopped_by=found.optional_text("stopped_by"),
        timings=_timings(found.fields("timings")),
        vmcoreinfo=found.optional_text("vmcoreinfo"),
        written=_written(written) if written else None,
        acquired_by=_operator(operator) if operator else None,
        evidence=found.optional_text("evidence"),
        refused=tuple(Refused(one.text("source"), one.text("reason")) for one in found.all_fields("refused")),
        order=found.text("order"),
        staged=Staged(staged.count("size"), staged.count("no_room")) if staged else None,
        skipped=tuple(
            Skipped(one.text("reason"), one.ranges("ranges")) for one in found.all_fields("skipped")
        ),
        unreadable=found.ranges("unreadable"),
        not_taken=found.ranges("not_taken"),
        pauses=found.all_seconds("pauses"),
        added=found.ranges("added") if found.has("added") else (),
        removed=found.ranges("removed") if found.has("removed") else (),
    )


def _operator(fields: Fields) -> Operator:
    return Operator(
        hostname=fields.text("hostname"),
        user=fields.text("user"),
        started=fields.instant("started"),
        ended=fields.instant("ended"),
    )


def _stream(fields: Fields) -> Stream:
    return Stream(fields.text("format"), fields.count("size"), _digest(fields))


def _digest(fields: Fields) -> Optional[str]:
    """Give the digest; only what says that it has none may have none."""
    return fields.digest("sha256") if fields.has("sha256") or not fields.names("sha256") else None


def _written(fields: Fields) -> Written:
    return Written(
        name=fields.optional_text("name"),
        size=fields.count("size"),
        sha256=_digest(fields),
        layers=fields.texts("layers"),
        parts=tuple(
            Part(part.text("name"), part.count("size"), part.digest("sha256"))
            for part in fields.all_fields("parts")
        ),
    )


def _timings(fields: Fields) -> Timings:
    return Timings(*(fields.seconds(key) for key in Timings._fields))


def _from_version_1(old: Dict[str, Any]) -> Dict[str, Any]:
    """Give a document of version 1 the keys of version 2; what is wrong with it stays so."""
    of_file = {"size": old.get("size"), "sha256": old.get("sha256")}
    new = {
        **{key: value for key, value in old.items() if key in Manifest._fields},
        "stream": {"format": old.get("image_format"), **of_file},
        "written": {"name": old.get("file"), **of_file, "layers": [], "parts": []},
        "order": "ascending",
        **{key: [] for key in ("refused", "skipped", "not_taken", "pauses")},
    }
    for key in ("ranges", "unreadable"):
        if isinstance(old.get(key), list):
            new[key] = [
                [value.get("start"), value.get("size")] if isinstance(value, dict) else value
                for value in old[key]
            ]
    if isinstance(old.get("timings"), dict):
        new["timings"] = {"compressing": 0, "encrypting": 0, "staging": 0, **old["timings"]}
    return new


def _spelled(value: Any, indent: str) -> Iterator[str]:
    """Spell a value in JSON, as ``json.dumps`` with an indent of 2 does, but for a range on a line."""
    inner = indent + "  "
    if isinstance(value, Range):
        yield f'["{value.start:#x}", {value.size}]'
    elif hasattr(value, "_asdict") or isinstance(value, dict):
        items = value if isinstance(value, dict) else value._asdict()
        for number, (key, item) in enumerate(items.items()):
            yield f"{',' if number else '{'}\n{inner}{json.dumps(key)}: "
            yield from _spelled(item, inner)
        yield f"\n{indent}}}" if items else "{}"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for number, item in enumerate(value):
            yield f"{',' if number else '['}\n{inner}"
            yield from _spelled(item, inner)
        yield f"\n{indent}]" if value else "[]"
    else:
        yield json.dumps(value)


def _offset(instant: Instant) -> int:
    *moment, microseconds = map(int, re.findall(r"\d+", instant.utc))
    return (calendar.timegm(tuple(moment)) * 1_000_000 + microseconds) * 1000 - instant.boot_time_ns
