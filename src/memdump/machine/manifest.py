"""The manifest: what was taken, from where, when and how whole; it stands beside the image, ``IMAGE.json``.

``docs/acquire.md`` describes every key for those who read it with something else than memdump.
"""

import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Type, TypeVar, Union

from memdump.errors import NotADump, NotPermitted
from memdump.machine.host import Host, Instant
from memdump.machine.source import Range

FORMAT = "memdump manifest"
VERSION = 1
LARGEST = 64 << 20
"""Bytes; a manifest of a terabyte machine is a few kilobytes."""


class Timings(NamedTuple):
    """Seconds that the steps were busy; they run side by side, so their sum exceeds ``total``."""

    total: float
    reading: float
    hashing: float
    writing: float


class Manifest(NamedTuple):
    """What is known about one acquisition."""

    memdump: str
    """The version of memdump."""
    command: Sequence[str]
    file: Optional[str]
    """Name of the image without its folder; none for standard output."""
    image_format: str
    host: Host
    started: Instant
    ended: Instant
    source: str
    ranges: Sequence[Range]
    """What the image was to hold; all of it is there if ``complete``."""
    unreadable: Sequence[Range]
    """What could not be read and stands as zeros in the image."""
    size: int
    """Bytes of the image, its headers included."""
    sha256: str
    """Digest of these bytes, taken while they were written."""
    complete: bool
    """Whether the image holds all ranges; unreadable pages are no reason against it."""
    stopped_by: Optional[str]
    """Why it is not complete."""
    timings: Timings
    vmcoreinfo: Optional[str]

    def to_json(self) -> str:
        """Give the text of the file."""
        document: Dict[str, Any] = {"format": FORMAT, "version": VERSION}
        document.update(self._asdict())
        for key in ("host", "started", "ended", "timings"):
            document[key] = document[key]._asdict()
        for key in ("ranges", "unreadable"):
            document[key] = [{"start": hex(found.start), "size": found.size} for found in document[key]]
        return json.dumps(document, indent=2) + "\n"


def path_of(image: str) -> str:
    """Name the manifest that belongs to an image, finished or not."""
    return (image[: -len(".part")] if image.endswith(".part") else image) + ".json"


def load(path: Union[str, Path]) -> Manifest:
    """Read a manifest; raises `NotADump` where the file is none, `NotPermitted` where it may not be read."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(LARGEST + 1)
    except PermissionError as error:
        raise NotPermitted(f"{path}: {error.strerror}") from None
    except OSError as error:
        raise NotADump(f"{path}: {error.strerror}") from None
    try:
        return parse(data)
    except NotADump as error:
        raise NotADump(f"{path}: {error}") from None


def parse(data: bytes) -> Manifest:
    """Read the text of a manifest, which may be anybody's; raises `NotADump` with what is wrong with it."""
    if len(data) > LARGEST:
        raise NotADump("too large for a manifest")
    try:
        document = json.loads(data.decode("utf-8"), parse_int=_integer)
    except (ValueError, RecursionError):
        raise NotADump("not a manifest: it is not valid JSON") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise NotADump("not a manifest of memdump")
    if document.get("version") != VERSION:
        raise NotADump(f"a manifest of version {document.get('version')!r:.20}; this memdump reads {VERSION}")
    found = _Fields(document)
    return Manifest(
        memdump=found.text("memdump"),
        command=found.texts("command"),
        file=found.optional_text("file"),
        image_format=found.text("image_format"),
        host=_host(found.fields("host")),
        started=_instant(found.fields("started")),
        ended=_instant(found.fields("ended")),
        source=found.text("source"),
        ranges=found.ranges("ranges"),
        unreadable=found.ranges("unreadable"),
        size=found.count("size"),
        sha256=found.text("sha256"),
        complete=found.get("complete", bool),
        stopped_by=found.optional_text("stopped_by"),
        timings=_timings(found.fields("timings")),
        vmcoreinfo=found.optional_text("vmcoreinfo"),
    )


T = TypeVar("T")


class _Fields:
    """A JSON object whose values are of the kind that is asked for, or a `NotADump` says which is not."""

    def __init__(self, values: Dict[str, Any], place: str = "") -> None:
        self._values = values
        self._place = place

    def get(self, key: str, kind: Type[T]) -> T:
        value = self._values.get(key)
        # To Python a bool is an int, but not to those who wrote the file.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.wrong(key)
        return value

    def wrong(self, key: str) -> NotADump:
        return NotADump(f"a damaged manifest: {self._place}{key} is missing or not what it should be")

    def text(self, key: str) -> str:
        return self._checked(key, self.get(key, str))

    def optional_text(self, key: str) -> Optional[str]:
        return None if self._values.get(key) is None else self.text(key)

    def texts(self, key: str) -> List[str]:
        return [self._checked(key, value) for value in self.get(key, list)]

    def _checked(self, key: str, value: object) -> str:
        # JSON can spell half of a surrogate pair, which no file and no terminal takes.
        if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value):
            raise self.wrong(key)
        return value

    def count(self, key: str) -> int:
        value = self.get(key, int)
        if value < 0:
            raise self.wrong(key)
        return value

    def seconds(self, key: str) -> float:
        value = self._values.get(key)
        # Not a number and infinity compare false.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
            raise self.wrong(key)
        return float(value)

    def fields(self, key: str) -> "_Fields":
        return _Fields(self.get(key, dict), f"{self._place}{key}.")

    def ranges(self, key: str) -> List[Range]:
        """Read addresses, which are spelled in hex, and sizes; they must ascend and not overlap."""
        ranges: List[Range] = []
        for index, value in enumerate(self.get(key, list)):
            place = f"{key}[{index}]"
            if not isinstance(value, dict):
                raise self.wrong(place)
            fields = _Fields(value, f"{place}.")
            start = fields.text("start")
            try:
                found = Range(int(start[:20], 16), fields.count("size"))
            except ValueError:
                raise self.wrong(place) from None
            behind = ranges[-1].end if ranges else 0
            if len(start) > 20 or found.start < behind or not found.size or found.end > 1 << 64:
                raise self.wrong(place)
            ranges.append(found)
        return ranges


def _host(fields: _Fields) -> Host:
    return Host(
        hostname=fields.text("hostname"),
        kernel_release=fields.text("kernel_release"),
        kernel_version=fields.text("kernel_version"),
        machine=fields.text("machine"),
        boot_id=fields.optional_text("boot_id"),
        page_size=fields.count("page_size"),
        command_line=fields.optional_text("command_line"),
    )


def _instant(fields: _Fields) -> Instant:
    return Instant(fields.text("utc"), fields.count("boot_time_ns"))


def _timings(fields: _Fields) -> Timings:
    return Timings(*(fields.seconds(key) for key in Timings._fields))


def _integer(digits: str) -> int:
    # Python takes quadratic time for an integer of a million digits.
    if len(digits) > 25:
        raise ValueError("an integer too long")
    return int(digits)
