"""gdb, as the tests have it look into cores."""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from pathlib import Path

from tests.process.targets import CORE_PATTERN, aborted, built

_TOO_SMALL = re.compile(r"warning: Section `\.reg-xstate/\d+' in core file too small\.\n+")
_WIDE = re.compile(r"^(k[0-7]|[yz]mm\d+) .*\n", re.MULTILINE)


def gdb(program: str | Path, core: Path, *commands: str, tolerated: str = "") -> str:
    """Give what gdb says to commands, and see that it warns of nothing but what ``tolerated`` matches."""
    said, warnings = _run(program, core, commands)
    if not knows_this_processor():
        said, warnings = _WIDE.sub("", _TOO_SMALL.sub("", said)), _TOO_SMALL.sub("", warnings)
    if tolerated:
        warnings = re.sub(tolerated, "", warnings)
    assert "warning" not in warnings.lower(), warnings
    return said


@functools.cache
def knows_this_processor() -> bool:
    """Whether gdb finds the wide registers in the kernel's own cores here.

    Before its release 14 it knows where Intel's processors keep them only, and others have them elsewhere.
    """
    if Path(CORE_PATTERN).read_text().strip() != "core":
        return True
    with tempfile.TemporaryDirectory() as folder:
        with aborted([str(built("deep")), "1"], Path(folder)):
            pass
        (core,) = Path(folder).glob("core*")
        return not _TOO_SMALL.search(_run(built("deep"), core, ())[1])


def _run(program: str | Path, core: Path, commands: tuple[str, ...]) -> tuple[str, str]:
    # What CPython brings along for gdb would run its own code here.
    words = ["gdb", "-batch", "-nx", "-iex", "set auto-load python-scripts off"]
    words += [word for command in commands for word in ("-ex", command)]
    done = subprocess.run([*words, program, core], capture_output=True, text=True, timeout=120)
    return done.stdout, done.stderr
