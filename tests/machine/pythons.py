"""The Pythons that are here, to run the acquiring side with; ``make guests`` adds one that is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.lab import pythons

OLDEST = "3.8"
"""The oldest that the acquiring side is for."""
_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


def _candidates() -> list[str]:
    named = [shutil.which(f"python3.{minor}") for minor in range(6, 20)]
    kept = sorted(Path.home().glob(".pyenv/versions/*/bin/python"))
    fetched = pythons.path()
    return [
        sys.executable,
        "/usr/bin/python3",
        *filter(None, named),
        *map(str, kept),
        *([str(fetched)] if fetched.exists() else []),
    ]


def _minor(version: str) -> int:
    return int(version[2:])


def _found() -> dict[str, str]:
    """An interpreter for each version, the oldest first, by its name: ``3.8``."""
    found: dict[str, str] = {}
    for path in dict.fromkeys(_candidates()):
        done = subprocess.run([path, "-c", _VERSION], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.startswith("3."):
            found.setdefault(done.stdout.strip(), path)
    return {version: found[version] for version in sorted(found, key=_minor)}


FOUND = _found()
TRIED = {version: path for version, path in FOUND.items() if _minor(version) >= _minor(OLDEST)}
"""Those that the acquiring side is tried with, by their versions."""
NEW_ENOUGH = list(TRIED.values())
TOO_OLD = [path for version, path in FOUND.items() if version not in TRIED]


def told() -> str:
    """Say which it is tried with, and whether the oldest that it is for is among them."""
    oldest = "" if OLDEST in TRIED else f", but not with {OLDEST}, the oldest that it is for"
    return f"the acquiring side is tried with Python {', '.join(TRIED)}{oldest}"
