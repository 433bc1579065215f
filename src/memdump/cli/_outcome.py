"""How a command that asked a dump ends."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from memdump.report.text import visible

if TYPE_CHECKING:
    from memdump.dump import Dump

INCOMPLETE = 1


def status(dump: Dump) -> int:
    """The exit status, once the answer is written: 1, and a line on stderr, if anything could not be read."""
    problems = dump.problems
    if not problems:
        return 0
    if len(problems) == 1:
        what = f"{problems[0].place}: {problems[0].reason}"
    else:
        what = f"{len(problems)} things could not be read"
    print(
        f"memdump: the answer may be incomplete: {visible(what)}"
        f" ('memdump show {visible(dump.address)} problems' lists all that cannot be read)",
        file=sys.stderr,
    )
    return INCOMPLETE
