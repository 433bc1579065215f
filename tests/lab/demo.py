"""``make demo``: break into a guest, take its memory from inside with memdump, and ask it what happened."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.lab import boot, cache, disks, guests, kernels

if TYPE_CHECKING:
    from pathlib import Path

OUTSIDE = (
    "-netdev user,id=n0,restrict=on,net=192.0.2.0/24,guestfwd=tcp:192.0.2.66:4444-null "
    "-device virtio-net-pci,netdev=n0"
)
"""A network that leads nowhere, on which one address takes connections: the attacker's."""

RECIPE = boot.Recipe("incident", "6.12", four_level=False, scenario="incident", devices=OUTSIDE)


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
    status = subprocess.run([sys.executable, "-m", "memdump", "triage", str(image)], check=False).returncode
    # The machine went on while its memory was read: a page that had changed by then is no failure.
    return 0 if status == 1 else status


def _take(folder: Path) -> None:
    """Leave the image that ``memdump acquire`` made inside the guest in ``folder``."""
    began = time.monotonic()
    kernel = kernels.get(RECIPE.kernel)
    carried = folder / "carried.ext4"
    guests.make_carried(carried)
    _say(began, f"booting Linux {kernel.release} in QEMU: no acceleration needed, {RECIPE.memory} of memory")
    with boot.Guest(RECIPE, kernel, carried, folder / "console.log") as guest:
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
