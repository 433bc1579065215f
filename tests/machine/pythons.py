"""The Pythons that are here, to run the acquiring side with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


def _candidates() -> list[str]:
    named = [shutil.which(f"python3.{minor}") for minor in range(6, 20)]
    kept = sorted(Path.home().glob(".pyenv/versions/*/bin/python"))
    return [sys.executable, "/usr/bin/python3", *filter(None, named), *map(str, kept)]


def _found() -> dict[str, str]:
    """An interpreter for each version, by its name: ``3.8``."""
    found: dict[str, str] = {}
    for path in dict.fromkeys(_candidates()):
        done = subprocess.run([path, "-c", _VERSION], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.startswith("3."):
            found.setdefault(done.stdout.strip(), path)
    return found


FOUND = _found()
NEW_ENOUGH = [path for version, path in FOUND.items() if int(version[2:]) >= 8]
TOO_OLD = [path for version, path in FOUND.items() if int(version[2:]) < 8]
