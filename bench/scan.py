"""The last resort, looking for a kernel everywhere: ``python -m bench.scan``.

The image is a raw file without any kernel in it, so all of it is read, and it is in the page cache.  It is
full of noise, or full of text, or mostly zero as that of an idle machine.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from bench.processes import verdict
from memdump.image import open_image
from memdump.kernel.location import find_kernel

GOAL = 2.0
TILE = 8 << 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.scan", description=__doc__)
    parser.add_argument("--size", type=int, default=2048, metavar="MIB", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the file goes meanwhile")
    args = parser.parse_args()
    measure(args.size << 20, args.rounds, args.folder)


def measure(size: int, rounds: int, folder: Path | None = None) -> None:
    """Measure each kind of contents."""
    noise = random.Random(1).randbytes(TILE)
    text = (b"BOOT_IMAGE=/boot/vmlinuz root=/dev/sda1 ro quiet\n" * (TILE // 40))[:TILE]
    idle = noise[: TILE // 8] + bytes(TILE - TILE // 8)
    for name, tile in (("noise", noise), ("text", text), ("mostly zero", idle)):
        with tempfile.TemporaryDirectory(prefix="memdump-bench-", dir=folder) as scratch:
            path = Path(scratch) / "plain.raw"
            with path.open("wb") as file:
                file.write(bytes(TILE))  # a file that begins with text is refused
                for _ in range(size // TILE - 1):
                    file.write(tile)
            seconds, processor = map(min, zip(*(_scan(path) for _ in range(rounds)), strict=True))
        print(verdict(f"last resort, image of {name}", size / seconds / 1e9, GOAL, unit="GB/s"), flush=True)
        print(f"  by processor time {size / processor / 1e9:.2f} GB/s")


def _scan(path: Path) -> tuple[float, float]:
    """Seconds, and seconds of processor time."""
    with open_image(path) as image:
        began, used = time.perf_counter(), time.process_time()
        if find_kernel(image) is not None:
            raise RuntimeError("a kernel was found where there is none")
        return time.perf_counter() - began, time.process_time() - used


if __name__ == "__main__":
    main()
