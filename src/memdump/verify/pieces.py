"""Whether the pieces of an image are those that it was split into."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from memdump.verify import Check
from memdump.verify.evidence import size_of

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.machine.manifest import Part, Written
    from memdump.verify.evidence import Evidence
    from memdump.verify.reading import Reading

MOST_FAULTS = 5
"""So many pieces are named that are not as they should be."""


def check_pieces(evidence: Evidence, reading: Reading, written: Written) -> tuple[Check, str | None]:
    """Compare each piece with what the manifest says of it; give the digest of all, if all were read.

    A piece is known by its number, so that an image which got another name is still the same.
    """
    whole, size = hashlib.sha256(), 0
    faults = []
    for number, part in enumerate(written.parts):
        path = evidence.pieces.get(number)
        fault = _size_fault(path, part)
        if path is not None and fault is None:
            digest = hashlib.sha256()
            try:
                size += reading.file(path, part.size, digest, whole)
                fault = _digest_fault(digest.hexdigest(), part, written)
            except OSError as error:
                fault = f"cannot be read: {error.strerror or error}"
        if fault:
            faults.append(f"{path.name if path else part.name} {fault}")
    count = len(written.parts)
    surplus = [evidence.pieces[number].name for number in sorted(evidence.pieces) if number >= count]
    faults += [f"{name} is none of its {count} pieces" for name in surplus]
    sha256 = whole.hexdigest() if size == written.size else None
    if not faults and written.sha256 not in (None, sha256):
        faults.append(f"the manifest gives the whole another SHA-256, {written.sha256}, than its pieces")
    if faults:
        more = f"; and {len(faults) - MOST_FAULTS} more" * (len(faults) > MOST_FAULTS)
        return Check("file", False, "; ".join(faults[:MOST_FAULTS]) + more), sha256
    told = f"{count} pieces, {size:,} bytes"
    return Check("file", True, f"{told}, SHA-256 {whole.hexdigest()}, each as the manifest says"), sha256


def _size_fault(path: Path | None, part: Part) -> str | None:
    if path is None:
        return "is missing; copy it beside the others"
    size = size_of(path)
    if size != part.size:
        return f"has {size:,} bytes; {part.size:,} were written"
    return None


def _digest_fault(found: str, part: Part, written: Written) -> str | None:
    if found == part.sha256:
        return None
    other = next((other.name for other in written.parts if other.sha256 == found), None)
    if other:
        return f"holds what belongs into {other}"
    return f"was changed: SHA-256 {found}; the manifest says {part.sha256}"
