"""``memdump info``: what an image is; its memory is not scanned."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from memdump.cli import _image, _outcome
from memdump.report import info
from memdump.report.text import visible

if TYPE_CHECKING:
    import argparse

SUMMARY = "say what an image is: format, ranges, kernel, custody"
EXAMPLE = "memdump info server.lime"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    _image.add_arguments(parser)
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="how to write it (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Say it; 1 where the image is damaged or no kernel was made out in it."""
    with _image.open_dump(args) as dump:
        found = info.facts(dump)
        if args.format == "json":
            from memdump.report.json import encode

            print(encode(found))
        else:
            for label, value in info.lines(found):
                print(f"{label:<10}{visible(value)}")
        if error := found["kernel"].get("error"):
            print(f"memdump: {visible(error)}", file=sys.stderr)
            return _outcome.INCOMPLETE
        return _outcome.status(dump)
