"""From the start of the command to its first row, and the memory it takes: ``python -m bench.start IMAGE``.

Cold is an empty cache of kernels, and then also an image of which nothing is in the page cache.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench.processes import Taken, drop_from_page_cache, run, script, verdict

LEAST_MEMORY = 300
"""MB of anonymous memory that no command needs more than."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    args = parser.parse_args()
    measure(args.image, args.rounds)


def measure(image: Path, rounds: int) -> None:
    """Measure one image."""
    unread, cold, warm, memory = [], [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="memdump-bench-") as folder:
            cache = Path(folder)
            drop_from_page_cache(image)
            unread.append(_first_rows(image, cache / "one"))
            cold.append(_first_rows(image, cache / "two"))
            warm.append(_first_rows(image, cache / "two"))
            memory.append(_everything(image, cache / "two"))
    first = {name: min(one.first_row for one in taken) for name, taken in (("cold", cold), ("warm", warm))}
    print(f"first row, image not in the page cache either: {min(one.first_row for one in unread):.2f} s")
    print(verdict("first row without the cache of kernels", first["cold"], 1.5, at_most=True, unit="s"))
    print(verdict("first row with it", first["warm"], 0.6, at_most=True, unit="s"))
    processor = [min(one.processor for one in taken) for taken in (cold, warm)]
    print(f"  processor time of the whole command: {processor[0]:.2f} s and {processor[1]:.2f} s")
    most = max(one.anonymous for one in (*unread, *cold, *warm, *memory)) / 1e6
    print(verdict("anonymous memory, all tables together", most, LEAST_MEMORY, at_most=True, unit="MB"))


def _first_rows(image: Path, cache: Path) -> Taken:
    return run([script("memdump"), "show", image, "processes", "--format", "jsonl"], cache)


def _everything(image: Path, cache: Path) -> Taken:
    from bench.volatility import PLUGINS, UNMATCHED

    counts = ", ".join(f"(select count(*) from {table})" for table in (*PLUGINS, *UNMATCHED))
    return run([script("memdump"), "query", image, f"select {counts}"], cache)


if __name__ == "__main__":
    main()
