"""Whether an image is what its manifest, its signature and its record of custody say.

This folder stands beside the others because it joins what ``machine/`` wrote with what ``image/`` reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memdump.machine import custody

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memdump.image.layers import Ask, Key
    from memdump.machine.custody import Head


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    """``manifest``, ``file``, ``stream``, ``copy``, ``signature`` or ``custody``."""
    holds: bool | None
    """None where it could not be checked."""
    detail: str
    """What was found, or why it could not be checked."""


class Wanted(NamedTuple):
    """What is to be verified, and with what."""

    image: Path
    manifest: Path | None = None
    """None for the one beside the image."""
    identity: Key = None
    ask: Ask | None = None
    signers: str | None = None
    """A file of allowed signers, or with ``public_key`` of public keys."""
    public_key: bool = False
    begin_record: bool = False
    """Whether to begin a record of custody where there is none."""


class Verified(NamedTuple):
    """What came of it."""

    checks: Sequence[Check]
    head: Head | None
    """The last entry of the record of custody, to be noted elsewhere."""
    trouble: str | None
    """Why the verification is not in that record."""

    @property
    def holds(self) -> bool:
        """Whether something was verified, and nothing failed."""
        found = [check.holds for check in self.checks if check.name != "manifest"]
        return True in found and False not in [check.holds for check in self.checks]


def verify(wanted: Wanted, progress: Callable[[int], Callable[[int], None]]) -> Verified:
    """Make all checks, and enter the outcome into the record of custody.

    ``progress`` gets the bytes that are going to be read, and gives what is called with those that were.
    Raises `NotADump` where it is no image, `NotPermitted` where it may not be read, and `UsageError` where
    the signers that are asked for make no sense.
    """
    from memdump.verify import content, vouchers
    from memdump.verify.evidence import gather
    from memdump.verify.reading import Reading

    with gather(wanted) as evidence:
        reading = Reading(progress(evidence.size))
        file, sha256 = content.check_file(evidence, reading)
        checks = [
            vouchers.check_manifest(evidence),
            file,
            content.check_stream(evidence, reading, file),
            vouchers.check_copy(evidence),
            vouchers.check_signature(evidence),
            vouchers.check_custody(evidence, sha256),
        ]
    return _recorded(str(evidence.image), checks, sha256, begin=wanted.begin_record)


def _recorded(image: str, checks: list[Check], sha256: str | None, *, begin: bool) -> Verified:
    from memdump.errors import MemdumpError

    try:
        if begin and not Path(custody.path_of(image)).exists():
            custody.append(image, "received", "the record begins here", sha256)
            checks = [*checks[:-1], Check("custody", True, "a record was begun, with the digest of the file")]
        held = ", ".join(check.name for check in checks if check.holds) or "nothing"
        failed = ", ".join(check.name for check in checks if check.holds is False)
        outcome = f"{held} held; {failed} did not" if failed else f"{held} held"
        return Verified(checks, custody.append(image, "verified", outcome, sha256), None)
    except MemdumpError as error:
        return Verified(checks, None, str(error))
