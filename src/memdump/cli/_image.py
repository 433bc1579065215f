"""The image that a command is asked about, for every command that opens one."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from memdump.cli import _custody

if TYPE_CHECKING:
    import argparse

    from memdump.dump import Dump

ENVIRONMENT = "MEMDUMP_IDENTITY"


def add_arguments(parser: argparse.ArgumentParser, metavar: str = "IMAGE") -> None:
    """Declare the image and ``--identity``."""
    parser.add_argument(
        "image", metavar=metavar, help="the memory image, in any format, compressed and encrypted or not"
    )
    parser.add_argument(
        "--identity",
        metavar="FILE",
        help="the private key that decrypts the image: an age identity file or an SSH key"
        f" (default: the file that ${ENVIRONMENT} names; a passphrase is asked for)",
    )


def open_dump(args: argparse.Namespace, action: str = "opened") -> Dump:
    """Open it, which its record of custody calls ``action``; raises `NotADump` or `NotPermitted`."""
    from memdump.dump import Dump

    dump = Dump.open(args.image, **keys(args))
    _custody.record(dump.image, action)
    return dump


def keys(args: argparse.Namespace) -> dict[str, Any]:
    """What may decrypt it, as `memdump.image.open_image` takes it."""
    terminal = sys.stdin is not None and sys.stdin.isatty()
    return {
        "identity": args.identity or os.environ.get(ENVIRONMENT) or None,
        "ask": _ask if terminal else None,
    }


def _ask(words: str) -> str:
    from getpass import getpass

    return getpass(words)
