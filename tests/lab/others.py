"""A guest whose memory is taken by memdump and by others' programs, one after the other.

QEMU writes it down before the first and after each.  ``python -m tests.lab.others`` makes it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import boot, cache, disks, guests, takers

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.guests import Made
    from tests.lab.kernels import Kernel

NAME = "others"
HERE = Path(__file__).parent
STEPS = {"lime": "lime.ko", "avml": "avml", "avml-compressed": "avml"}
"""What is done by others (`tests.lab.inside.others`), and the file that it takes."""
LACKING = "lacking.json"


def get() -> Made:
    """The guest from the cache, else booted now; raises `cache.NoLab` where that cannot be."""
    kernel = takers.own_kernel()
    # Modules are for these page tables as for others; Volatility reads no others.
    recipe = boot.Recipe(NAME, kernel.release, four_level=True, scenario=NAME)
    had, lacking = _had(kernel)
    digest = hashlib.sha256(guests.key(recipe, kernel).encode() + Path(__file__).read_bytes())
    for name, path in had.items():
        digest.update(name.encode() + path.read_bytes())

    def make(folder: Path) -> None:
        _make(recipe, kernel, had, folder)
        (folder / LACKING).write_text(json.dumps(lacking))

    return guests.kept(NAME, digest.hexdigest(), make)


def lacking(made: Made) -> dict[str, str]:
    """The files of other programs that could not be had when it was made, and why."""
    found: dict[str, str] = json.loads((made.folder / LACKING).read_text())
    return found


def _had(kernel: Kernel) -> tuple[dict[str, Path], dict[str, str]]:
    """The files of other programs, and of those that are not to be had the reason."""
    sought: dict[str, Callable[[], Path]] = {
        "crash.ko": lambda: takers.crash(kernel),
        "lime.ko": lambda: takers.lime(kernel),
        "avml": takers.avml,
    }
    had, lacking = {}, {}
    for name, get in sought.items():
        try:
            had[name] = get()
        except cache.NoLab as error:
            lacking[name] = str(error)
    return had, lacking


def _make(recipe: boot.Recipe, kernel: Kernel, had: dict[str, Path], folder: Path) -> None:
    began = time.monotonic()
    times = {}
    carried = folder / "carried.ext4"
    with tempfile.TemporaryDirectory(prefix="memdump-others-", dir=cache.folder()) as added:
        for name, path in had.items():
            shutil.copy(path, Path(added) / name)
        guests.make_carried(carried, Path(added))
    with boot.Guest(recipe, kernel, carried, folder / "console.log") as guest:
        guest.hear("ready")
        said = {"driver": guest.ask("do driver", "did")} if "crash.ko" in had else {}
        guest.ask("record", "recorded")
        times["recorded"] = time.monotonic() - began
        guest.dump(folder / "memory.elf")
        source = "crash" if "crash.ko" in had else "auto"
        said["memory"] = guest.ask(f"acquire memory.lime --source {source}", "acquired")
        guest.dump(folder / "after-memory.elf")
        said["ascending"] = guest.ask("acquire ascending.lime --order ascending", "acquired")
        guest.dump(folder / "after-ascending.elf")
        if "crash.ko" in had:
            said["choose"] = guest.ask("do choose", "did")
        times["acquired"] = time.monotonic() - began
        for step, wanted in STEPS.items():
            if wanted in had:
                said[step] = guest.ask(f"do {step}", "did")
                guest.dump(folder / f"after-{step}.elf")
                times[step] = time.monotonic() - began
        guest.ask("end", "ended")
    disks.extract(carried, "/out", folder)
    carried.unlink()
    if failed := {step: status for step, status in said.items() if status != "0"}:
        raise RuntimeError(f"in the guest {NAME} these failed (status): {failed}; see {folder}")
    for image in folder.glob("*.*"):
        if image.suffix in (".elf", ".lime", ".packed"):
            image.chmod(0o644)
            guests.make_sparse(image)
    times["made"] = time.monotonic() - began
    (folder / "times.json").write_text(
        json.dumps({name: round(seconds, 1) for name, seconds in times.items()})
    )


def main() -> int:
    """Make it, and say where it is."""
    return cache.say(lambda: _told(get()))


def _told(made: Made) -> list[object]:
    return [made.folder, json.loads((made.folder / "times.json").read_text()), lacking(made)]


if __name__ == "__main__":
    sys.exit(main())
