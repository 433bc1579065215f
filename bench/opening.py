"""Opening a large image beside a small one: ``python -m bench.opening SMALL LARGE``.

Both are of the same kernel.  What opening takes must not grow with the image.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench.processes import Taken, drop_from_page_cache, run, script, verdict

GOAL = 1.5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.opening", description=__doc__)
    parser.add_argument("small", type=Path)
    parser.add_argument("large", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    args = parser.parse_args()
    measure(args.small, args.large, args.rounds)


def measure(small: Path, large: Path, rounds: int) -> None:
    """Measure both, in turns."""
    sizes = " and ".join(f"{path.stat().st_size / (1 << 30):.1f} GiB" for path in (small, large))
    print(f"images of {sizes}")
    for what, unread, cached in (
        ("page cache and cache of kernels warm", False, True),
        ("no cache of kernels", False, False),
        ("no cache of kernels, nothing in the page cache", True, False),
    ):
        taken = [[_open(path, unread, cached) for path in (small, large)] for _ in range(rounds)]
        best = [min(one.seconds for one in column) for column in zip(*taken, strict=True)]
        used = [min(one.processor for one in column) for column in zip(*taken, strict=True)]
        print(f"{what}: {best[0]:.2f} s and {best[1]:.2f} s")
        print(verdict("large beside small", best[1] / best[0], GOAL, at_most=True), flush=True)
        print(f"  processor time {used[0]:.2f} s and {used[1]:.2f} s: {used[1] / used[0]:.2f} x")


def _open(image: Path, unread: bool, cached: bool) -> Taken:
    """Open an image and say what system it is of."""
    command: list[str | Path] = [script("memdump"), "show", image, "system"]
    with tempfile.TemporaryDirectory(prefix="memdump-bench-") as folder:
        cache = Path(folder)
        if cached:
            run(command, cache)
        if unread:
            drop_from_page_cache(image)
        return run(command, cache)


if __name__ == "__main__":
    main()
