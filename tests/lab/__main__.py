"""Boot guests by hand.

``python -m tests.lab 6.12 --out DIR`` leaves a guest's memory and the truth about it in DIR;
``python -m tests.lab`` makes all guests that the tests want and the cache lacks, and fetches a Python.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab import arm64, cache, guests, kernels, others, pythons

AT_ONCE = 2
"""Guests booted side by side: each has two CPUs, but little to do on the second."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("guest", nargs="?", choices=guests.GUESTS, help="the guest to boot (default: all)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to leave it: a folder not yet there")
    parser.add_argument("--memory", help="how much memory the guest has (default: 512M)")
    parser.add_argument("--4level", dest="four_level", action="store_true", help="without five-level paging")
    parser.add_argument("--scenario", choices=("scenario", "incident"), help="what goes on in it")
    args = parser.parse_args()
    if bool(args.guest) != bool(args.out):
        parser.error("a guest and --out go together")
    try:
        if args.guest:
            _make_one(args)
        else:
            _make_all()
    except (cache.NoLab, RuntimeError, FileExistsError) as error:
        print(f"the lab: {error}", file=sys.stderr)
        return 1
    return 0


def _make_one(args: argparse.Namespace) -> None:
    recipe = guests.GUESTS[args.guest]
    chosen = {
        name: getattr(args, name) for name in ("memory", "scenario", "four_level") if getattr(args, name)
    }
    args.out.mkdir(parents=True)
    guests.make(dataclasses.replace(recipe, **chosen), kernels.get(recipe.kernel), args.out)
    print(args.out)


def _make_all() -> None:
    for series in dict.fromkeys(recipe.kernel for recipe in guests.GUESTS.values()):
        kernels.get(series)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        taken = pool.submit(others.get)  # it may have to build programs first
        other = pool.submit(arm64.get)
        for made in pool.map(guests.get, guests.GUESTS.values()):
            times = json.loads((made.folder / "times.json").read_text())
            print(
                f"guest {made.name}: booted and recorded in {times['recorded']} s, in all {times['made']} s"
            )
        print(f"guest {other.result().folder.name}: there")
        for name, reason in others.lacking(taken.result()).items():
            print(f"guest {taken.result().name}: without {name}: {reason}")
        print(f"guest {taken.result().name}: there")
    pythons.get()


if __name__ == "__main__":
    sys.exit(main())
