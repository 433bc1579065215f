"""What there is to verify: the image, what is in it, and what is beside it."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from memdump.errors import MemdumpError, NotADump, NotPermitted
from memdump.image.content import Damaged, open_content
from memdump.image.joined import pieces_of
from memdump.image.layers import open_layers
from memdump.image.recognise import recognise
from memdump.machine import custody, manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.image.layers import Opened
    from memdump.machine.custody import Record
    from memdump.machine.manifest import Manifest
    from memdump.verify import Wanted


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that was found."""

    wanted: Wanted
    image: Path
    """The image's name; where it is in pieces there is no file of that name."""
    pieces: dict[int, Path]
    """Those of its pieces that are there, by their numbers; none where it is one file."""
    opened: Opened | None
    shut: str
    """Why it could not be opened."""
    manifest_path: Path
    manifest_data: bytes | None
    manifest: Manifest | None
    manifest_fault: str | None
    """Why the data are no manifest."""
    record: Record | None
    record_trouble: str | None
    """Why the record of custody could not be read."""

    @property
    def files(self) -> list[Path]:
        """The image, or its pieces in order."""
        return [self.pieces[number] for number in sorted(self.pieces)] or [self.image]

    @property
    def file_size(self) -> int:
        """Bytes of the image's file or files."""
        return sum(map(size_of, self.files))

    @property
    def size(self) -> int:
        """Bytes that are going to be read."""
        return self.file_size + (len(self.opened.content) if self.opened and self.layers else 0)

    @property
    def layers(self) -> tuple[str, ...] | None:
        """The layers that the image has, as a manifest names them; None where it could not be opened."""
        if self.opened is None:
            return None
        return tuple(layer.name for layer in reversed(self.opened.layers) if layer.name != "split")


@contextlib.contextmanager
def gather(wanted: Wanted) -> Iterator[Evidence]:
    """Open all there is.

    Raises `NotADump` where it is no image, `NotPermitted` where it may not be read.
    """
    image, pieces = pieces_of(wanted.image)
    path = wanted.manifest or Path(manifest.path_of(str(image)))
    data = _manifest_data(path, named=wanted.manifest is not None)
    known, fault = _manifest(data)
    record, trouble = _record(image)
    if known and known.written and not known.written.size:
        opened, shut = None, "nothing was written"  # it was stopped before its first byte
    else:
        opened, shut = _open(wanted, list(pieces.values()) or [image], foreign=data is None)
    try:
        yield Evidence(wanted, image, pieces, opened, shut, path, data, known, fault, record, trouble)
    finally:
        if opened:
            opened.content.close()


def size_of(file: Path) -> int:
    """Give the bytes of a file; 0 where it cannot be told, and reading it will tell why."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _manifest_data(path: Path, *, named: bool) -> bytes | None:
    if not named and not path.exists():
        return None
    return manifest.read(path)


def _manifest(data: bytes | None) -> tuple[Manifest | None, str | None]:
    if data is None:
        return None, None
    try:
        return manifest.parse(data), None
    except NotADump as error:
        return None, str(error)


def _record(image: Path) -> tuple[Record | None, str | None]:
    try:
        return custody.check(str(image)), None
    except MemdumpError as error:
        return None, str(error)


def _open(wanted: Wanted, files: list[Path], *, foreign: bool) -> tuple[Opened | None, str]:
    """Open what is in the image; without a manifest, it has to be one that memdump knows."""
    for file in files:
        try:
            open_content(file).close()  # what cannot be opened at all is not evidence, but an error
        except NotADump:
            if foreign or len(files) == 1:
                raise
    try:
        opened = open_layers(wanted.image, wanted.identity, wanted.ask)
    except (NotPermitted, NotADump) as error:
        if foreign and isinstance(error, NotADump):
            raise
        return None, str(error)
    try:
        if foreign:
            recognise(opened.path, opened.content)
    except (NotADump, Damaged) as error:
        opened.content.close()
        raise NotADump(str(error)) from None
    return opened, ""
