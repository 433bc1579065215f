"""Whether the bytes are those that were taken and written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.errors import MemdumpError
from memdump.image.content import Damaged
from memdump.verify import Check
from memdump.verify.pieces import check_pieces

if TYPE_CHECKING:
    from memdump.machine.custody import Record
    from memdump.machine.manifest import Manifest, Written
    from memdump.verify.evidence import Evidence
    from memdump.verify.reading import Reading


def check_file(evidence: Evidence, reading: Reading) -> tuple[Check, str | None]:
    """Compare the file with what was written, or recorded; give its digest too, if it was taken."""
    written = evidence.manifest.written if evidence.manifest else None
    if written and written.parts and evidence.pieces:
        return check_pieces(evidence, reading, written)
    if written and _other_layers(evidence, written):
        layers = " and ".join(written.layers) or "no layer"
        return Check("file", None, f"is not as it was written, with {layers}"), None
    size = evidence.file_size
    expected = written.size if written else size
    told = written.sha256 if written else _recorded(evidence.record)
    if told is None and not evidence.wanted.begin_record:
        return Check("file", None, "nothing says what its digest should be"), None
    if size != expected:
        return Check("file", False, f"has {size:,} bytes; {expected:,} were written"), None
    try:
        sha256 = reading.files(evidence.files, expected)
    except OSError as error:
        return Check("file", False, f"cannot be read: {error.strerror or error}"), None
    by = "manifest" if written else "record of custody"
    if told is None:
        return Check("file", None, f"SHA-256 {sha256}, which nothing says it should be"), sha256
    if sha256 != told:
        return Check("file", False, f"SHA-256 {sha256}; the {by} says {told}"), sha256
    return Check("file", True, f"{expected:,} bytes, SHA-256 {sha256}, as the {by} says"), sha256


def check_stream(evidence: Evidence, reading: Reading, file: Check) -> Check:
    """Compare what is in the file with what was taken from the machine."""
    known, opened = evidence.manifest, evidence.opened
    if known is None:
        return Check("stream", None, "nothing says what its digest should be")
    if known.written and not known.written.layers and file.holds is not None:
        return _stream_as_file(known, known.written, file)
    if opened is None:
        encrypted = known.written is not None and "age" in known.written.layers
        # Who names a key wants to know; without one, that it is encrypted is no fault.
        locked = encrypted and evidence.wanted.identity is None
        return Check("stream", None if locked else False, evidence.shut)
    told = known.stream
    # A core may have no digest, whole or not; an image lacks it only where its destination failed.
    ends_early = told.format == "lime" and told.sha256 is None and not known.complete
    if opened.defects and not ends_early:
        return Check("stream", False, opened.defects[0])
    if len(opened.content) != told.size:
        return Check("stream", False, f"has {len(opened.content):,} bytes; {told.size:,} were taken")
    try:
        found = reading.content(opened.content)
    except (Damaged, MemdumpError) as error:
        return Check("stream", False, str(error))
    if ends_early:
        what = f"{told.size:,} bytes of {told.format} arrived before the destination failed"
        return Check("stream", None, f"{what}, SHA-256 {found}; their digest was not taken")
    if told.sha256 is None:
        return Check("stream", None, f"SHA-256 {found}; none was taken of the core when it was written")
    if found != told.sha256:
        return Check("stream", False, f"SHA-256 {found}; the manifest says {told.sha256}")
    return Check("stream", True, f"{told.size:,} bytes of {told.format}, SHA-256 {found}")


def _stream_as_file(known: Manifest, written: Written, file: Check) -> Check:
    """Without layers the file is the stream, and is not read twice."""
    if (written.size, written.sha256) != (known.stream.size, known.stream.sha256):
        return Check("stream", False, "the manifest gives it another digest than the file, which it is")
    return Check("stream", file.holds, "is the file itself")


def _other_layers(evidence: Evidence, written: Written) -> bool:
    """Whether layers were taken off, or put on, since the image was written."""
    return evidence.layers is not None and evidence.layers != tuple(written.layers)


def _recorded(record: Record | None) -> str | None:
    """Give the digest that the image had when the record began."""
    if record is None or record.faults:
        return None
    return next((entry.image.sha256 for entry in record.entries if entry.image.sha256), None)
