"""Volatility 3, run as its users run it, on images of guests."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memdump.cli import main
from tests.tables import proc

if TYPE_CHECKING:
    from tests.lab.guests import Made

PATIENCE = 900
"""Seconds that a plugin may take on a machine with much else to do."""


class Volatility:
    """Volatility 3, with a symbol file that memdump made of the image; its test is skipped without it."""

    def __init__(self, image: Path, folder: Path) -> None:
        pytest.importorskip(
            "volatility3", reason="Volatility 3 is not installed: pip install 'memdump[peers]'"
        )
        self._image, self._folder = image, folder
        (folder / "symbols").mkdir()
        (folder / "cache").mkdir()
        # Where jsonschema is installed, Volatility spends minutes on comparing the file with its schema.
        (folder / "jsonschema.py").write_text("raise ImportError('left out')")
        assert main(["export", "isf", str(image), str(folder / "symbols" / "kernel.json.xz")]) == 0

    def run(self, plugin: str) -> list[dict[str, Any]]:
        """The rows of a plugin."""
        script = Path(sysconfig.get_path("scripts")) / "vol"
        done = subprocess.run(
            [script, "-q", "-r", "json", "-f", self._image, "-s", self._folder / "symbols", plugin],
            env={
                **os.environ,
                "XDG_CACHE_HOME": str(self._folder / "cache"),
                "PYTHONPATH": str(self._folder),
            },
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows


def plain(text: str) -> bool:
    """Whether Volatility shows a text as it is."""
    return text.isascii() and text.isprintable()


def check_processes(guest: Made, rows: list[dict[str, Any]], taker: str = "") -> None:
    """See that what ``linux.pslist`` tells is what the guest's /proc told.

    A process of the name ``taker``, which took the memory, may be there beside them.
    """
    told = {row["PID"]: row for row in rows}
    # Volatility leaves out a process that has ended and was not waited for.
    recorded = {
        pid: found for pid, found in proc.processes(guest).items() if proc.stat(found["stat"])[3] != "Z"
    }
    assert set(recorded) <= set(told)
    # workers of the kernel
    assert all(told[pid]["PPID"] == 2 or told[pid]["COMM"] == taker for pid in set(told) - set(recorded))
    for pid, found in recorded.items():
        stat, status = proc.stat(found["stat"]), proc.status(found["status"])
        name = found["threads"][0]["comm"]
        assert told[pid]["PPID"] == int(stat[4])
        assert told[pid]["UID"] == int(status["Uid"].split()[0])
        if plain(name):
            # /proc knows the whole name of a kernel thread, Volatility its first 15 bytes.
            assert told[pid]["COMM"] == (name[:15] if found["kernel_thread"] else name)
