"""``memdump triage``: what a responder wants to know first, on one screen."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from memdump.cli import _image, _outcome
from memdump.cli._terminal import colour, room
from memdump.report import READABLE
from memdump.report.styled import render
from memdump.report.triage import screen

if TYPE_CHECKING:
    import argparse

SUMMARY = "show on one screen what a responder wants to know first"
EXAMPLE = "memdump triage server.lime"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    _image.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Show it, a section at a time."""
    wide = room(sys.stdout) or READABLE
    coloured = colour(sys.stdout)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    with _image.open_dump(args) as dump:
        for line in screen(dump):
            print(render(line, wide, colour=coloured))
        return _outcome.status(dump)
