"""``memdump export``: what was worked out about an image, for another tool."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from memdump.cli import _image, _outcome
from memdump.errors import UsageError
from memdump.machine.output import Output
from memdump.report.text import visible

if TYPE_CHECKING:
    import argparse

    from memdump.kernel.kernel import Kernel

SUMMARY = "write a symbol file for Volatility 3, made from the image alone"
EXAMPLE = "memdump export isf server.lime symbols/server.json.xz"

SUFFIXES = (".json", ".json.xz")
XZ_PRESET = 0
"""Eight times quicker than the default, for a file a quarter larger."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "kind", metavar="isf", choices=("isf",), help="Volatility 3's Intermediate Symbol Format"
    )
    _image.add_arguments(parser)
    parser.add_argument(
        "out",
        metavar="OUT",
        nargs="?",
        help="the file to write, named .json or .json.xz; it must not exist, and the folder it is in is what"
        " Volatility takes after -s (default: the kernel's release and .json.xz, here)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the file; 1 where the image is damaged."""
    from memdump.report import isf

    if args.out and not args.out.endswith(SUFFIXES):
        raise UsageError(f"{args.out}: Volatility only finds names that end in {' or '.join(SUFFIXES)}")
    with _image.open_dump(args, "exported") as dump:
        out = args.out or _name_for(dump.kernel)
        with Output(out) as file:
            data = isf.encode(dump.kernel)
            file.write(_compressed(data) if out.endswith(".xz") else data)
            file.commit()
        print(visible(out))
        if dump.kernel.location.levels == 5:
            print(
                "memdump: this kernel uses 5-level page tables, which Volatility 3 does not read:"
                " its tables may come out empty",
                file=sys.stderr,
            )
        return _outcome.status(dump)


def _name_for(kernel: Kernel) -> str:
    return re.sub(r"[^\w.+~-]", "_", kernel.release, flags=re.ASCII).lstrip(".") + ".json.xz"


def _compressed(data: bytes) -> bytes:
    import lzma

    return lzma.compress(data, preset=XZ_PRESET)
