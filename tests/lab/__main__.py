"""Boot a guest by hand: ``python -m tests.lab 6.12 --out DIR`` leaves its memory and the truth in DIR."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from tests.lab import cache, guests, kernels


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument(
        "guest", choices=sorted({*guests.GUESTS, *kernels.SERIES}), help="which guest to boot"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a folder that is not there yet"
    )
    parser.add_argument(
        "--memory", default="768M", help="how much memory the guest has (default: %(default)s)"
    )
    parser.add_argument("--4level", dest="four_level", action="store_true", help="turn five-level paging off")
    parser.add_argument(
        "--scenario", default="scenario", choices=("scenario", "incident"), help="what goes on in it"
    )
    args = parser.parse_args()
    recipe = guests.GUESTS[args.guest]
    recipe = dataclasses.replace(
        recipe,
        memory=args.memory,
        four_level=args.four_level or recipe.four_level,
        scenario=args.scenario,
    )
    try:
        args.out.mkdir(parents=True)
        guests.make(recipe, kernels.get(recipe.kernel), args.out)
    except FileExistsError:
        print(f"{args.out} is there already", file=sys.stderr)
        return 2
    except (cache.NoLab, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
