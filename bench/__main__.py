"""All comparisons on guests of the lab: ``python -m bench``.

The guests are made once and kept in the lab's cache; the large one needs 20 GB of disk and some minutes.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import cache, guests

from bench import opening, scan, sealed, start, write_path

if TYPE_CHECKING:
    from tests.lab.guests import Made

ROUNDS = 5
SCRATCH = Path("/var/tmp")
"""On a disk."""


def main() -> int:
    """Run all; 1 where there is no lab."""
    try:
        small, large = _guest("1G"), _guest("8G")
    except cache.NoLab as error:
        print(error, file=sys.stderr)
        return 1
    _say("Beside Volatility 3")
    subprocess.run([sys.executable, "-m", "bench.volatility", small.qmp_image], check=True)
    _say("Opening: ELF core, with a VMCOREINFO note")
    opening.measure(small.qmp_image, large.qmp_image, ROUNDS)
    _say("Opening: LiME, without")
    opening.measure(small.lime_image, large.lime_image, ROUNDS)
    _say("Start and memory")
    start.measure(small.lime_image, ROUNDS)
    _say("Sealed images")
    sealed.measure(small.lime_image, ROUNDS)
    _say("Last resort")
    scan.measure(2 << 30, ROUNDS)
    _say("Write path")
    write_path.measure(small.lime_image, ROUNDS, SCRATCH)
    _say("Acquisition beside AVML, at this machine's own speed")
    subprocess.run([sys.executable, "-m", "bench.native", small.lime_image], check=False)
    _say("Acquisition beside AVML and LiME, in an emulated guest")
    subprocess.run([sys.executable, "-m", "bench.acquisition"], check=False)
    return 0


def _guest(memory: str) -> Made:
    """A guest that Volatility can read, with so much memory."""
    recipe = dataclasses.replace(guests.GUESTS["6.12-4level"], name=f"bench-{memory}", memory=memory)
    return guests.get(recipe)


def _say(what: str) -> None:
    print(f"\n== {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
