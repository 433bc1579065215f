"""What vouches for an image: its manifest, the copy of that, the signature, the record of custody."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from memdump.errors import MemdumpError, NotADump
from memdump.machine import manifest, sshsig
from memdump.verify import Check

if TYPE_CHECKING:
    from memdump.machine.custody import Record
    from memdump.verify.evidence import Evidence

MOST_FAULTS = 3
"""So many faults of a record are told in a line."""


def check_manifest(evidence: Evidence) -> Check:
    """Say what the manifest is about."""
    known = evidence.manifest
    if evidence.manifest_fault:
        return Check("manifest", False, f"{evidence.manifest_path}: {evidence.manifest_fault}")
    if known is None:
        return Check("manifest", None, f"there is no {evidence.manifest_path}")
    when = f"{known.started.utc} to {known.ended.utc}"
    missing = "" if known.complete else f"; incomplete: {known.stopped_by}"
    return Check("manifest", True, f"{known.host.hostname} through {known.source}, {when}{missing}")


def check_copy(evidence: Evidence) -> Check:
    """Compare the manifest with its copy in the image, which knows all but what came after it."""
    if evidence.opened is None:
        return Check("copy", None, evidence.shut)
    if not evidence.opened.metadata:
        return Check("copy", None, "only images that memdump compressed hold a copy of the manifest")
    try:
        copy = manifest.parse(evidence.opened.metadata)
    except NotADump as error:
        return Check("copy", False, f"inside the image: {error}")
    if evidence.manifest is None:
        return Check("copy", None, "there is one in the image, and nothing to compare it with")
    beside = evidence.manifest._replace(written=None)
    if copy.complete and not beside.complete:  # the disk failed when the copy was written already
        copy = copy._replace(complete=False, stopped_by=beside.stopped_by)
    differing = [key for key in copy._fields if getattr(copy, key) != getattr(beside, key)]
    if differing:
        return Check("copy", False, f"the manifest inside the image has another {', '.join(differing)}")
    return Check("copy", True, "the manifest inside the image says the same")


def check_signature(evidence: Evidence) -> Check:
    """Check the signature of the manifest; raises `UsageError` where it cannot be done as asked."""
    wanted = evidence.wanted
    missing = False if wanted.signers else None
    if evidence.manifest_data is None:
        return Check("signature", missing, "there is no manifest")
    path = Path(f"{evidence.manifest_path}.sig")
    try:
        with path.open("rb") as file:
            signature = file.read(sshsig.LARGEST + 1)
    except FileNotFoundError:
        return Check("signature", missing, f"there is no {path}")
    except OSError as error:
        return Check("signature", missing, f"{path}: {error.strerror}")
    try:
        signer = sshsig.verify(evidence.manifest_data, signature, wanted.signers, wanted.public_key)
    except sshsig.BadSignature as error:
        return Check("signature", False, str(error))
    except MemdumpError as error:
        if wanted.signers:
            raise
        return Check("signature", None, str(error))
    if wanted.signers is None:
        whose = "add --signer or --allowed-signers to know whose that is"
        return Check("signature", None, f"over this manifest, with {signer.key}; {whose}")
    return Check("signature", True, f"by {signer.name}, with {signer.key}" if signer.name else signer.key)


def check_custody(evidence: Evidence, sha256: str | None) -> Check:
    """Say what the record of custody comes to; ``sha256`` is the digest of the file, where it was taken."""
    record = evidence.record
    if record is None:
        why = evidence.record_trouble or "there is no record; --start-record begins one"
        return Check("custody", None, why)
    faults = [*record.faults, *_contradictions(evidence, record, sha256)]
    if faults:
        more = f"; and {len(faults) - MOST_FAULTS} more" * (len(faults) > MOST_FAULTS)
        return Check("custody", False, "; ".join(faults[:MOST_FAULTS]) + more)
    last = record.entries[-1]
    count = "1 entry" if len(record.entries) == 1 else f"{len(record.entries)} entries"
    what = f"{count}, the last: {last.action} {last.time} by {last.user} on {last.hostname}"
    unmarked = "; the image bears no mark that would show if entries were missing at the end"
    return Check("custody", True, what + unmarked * (record.marked is None))


def _contradictions(evidence: Evidence, record: Record, sha256: str | None) -> list[str]:
    """List what entries say of the file that it is not."""
    written = evidence.manifest.written if evidence.manifest else None
    true = {digest for digest in (sha256, written and written.sha256) if digest}
    return [
        f"entry {entry.number} is about a file with the SHA-256 {entry.image.sha256}"
        for entry in record.entries
        if true and entry.image.sha256 and entry.image.sha256 not in true
    ]
