"""What came of a verification, a line for each check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.verify import Verified

RESULTS = {True: "ok", False: "FAILED", None: "not checked"}


def facts(found: Verified, image: str) -> dict[str, Any]:
    """All of it, as JSON has it."""
    return {
        "image": image,
        "holds": found.holds,
        "checks": [
            {"check": check.name, "result": RESULTS[check.holds], "detail": check.detail}
            for check in found.checks
        ],
        "custody_head": found.head and found.head._asdict(),
    }


def lines(found: Verified) -> Iterator[str]:
    """The same for people; the text may hold anything, since others wrote it."""
    for check in found.checks:
        yield f"{RESULTS[check.holds]:<13}{check.name:<11}{check.detail}"
    if found.head:
        yield f"{'':<13}{'head':<11}{found.head}"
