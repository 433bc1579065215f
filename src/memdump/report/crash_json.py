"""Why something crashed, for programs: one object, whose addresses are integers."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from memdump.crash import signals

if TYPE_CHECKING:
    from memdump.crash.explanation import Explanation


def document(found: Explanation) -> dict[str, Any]:
    """All that is known, as JSON has it; a part that does not apply is null."""
    document = asdict(found)
    document["process"] = found.process._asdict() if found.process else None
    document["started"] = found.started._asdict() if found.started else None
    if found.files:
        document["files"] = found.files._asdict() | {
            "streams": [stream._asdict() for stream in found.files.streams]
        }
    if found.signal:
        name, meaning = signals.code(found.signal)
        document["signal"] |= {
            "name": signals.name(found.signal.number),
            "code_name": name or None,
            "meaning": meaning or signals.words(found.signal.number) or None,
        }
    return document
