"""``make demo``: break into a guest, take its memory from inside with memdump, and ask it what happened."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.lab import cache, disks, guests, kernels

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = guests.Recipe("incident", "6.12", four_level=False, scenario="incident")


def main() -> int:
    folder = cache.folder() / "demo"
    image = folder / "memory.lime"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        _take(folder)
    except (cache.NoLab, RuntimeError) as error:
        print(f"make demo: {error}", file=sys.stderr)
        return 1
    print(f"\n$ memdump triage {image}", flush=True)
    return subprocess.run([sys.executable, "-m", "memdump", "triage", str(image)], check=False).returncode


def _take(folder: Path) -> None:
    """Leave the image that ``memdump acquire`` made inside the guest in ``folder``."""
    began = time.monotonic()
    kernel = kernels.get(RECIPE.kernel)
    carried = folder / "carried.ext4"
    guests.make_carried(carried)
    _say(began, f"booting Linux {kernel.release} in QEMU: no acceleration needed, {RECIPE.memory} of memory")
    with guests.start(RECIPE, kernel, carried, folder / "console.log") as guest:
        guest.hear("ready")
        _say(began, "somebody broke in; now, inside the guest: memdump acquire memory.lime")
        status = guest.ask("acquire", "acquired")
        guest.ask("end", "ended")
    disks.extract(carried, "/out", folder)
    carried.unlink()
    if status != "0":
        raise RuntimeError((folder / "acquire.log").read_text().strip())
    size = (folder / "memory.lime").stat().st_size >> 20
    _say(began, f"the image is here, {size} MiB; everything below comes from it alone")


def _say(began: float, what: str) -> None:
    print(f"[{time.monotonic() - began:4.0f} s] {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
