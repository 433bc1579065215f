"""``memdump verify``: digests, signature and custody of an image."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from memdump.cli import _image
from memdump.errors import UsageError
from memdump.machine.progress import Progress
from memdump.report import verify as report
from memdump.report.text import visible
from memdump.verify import Wanted, verify

if TYPE_CHECKING:
    import argparse

SUMMARY = "check an image against its manifest, its signature and its chain of custody"
EXAMPLE = "memdump verify web1.lime.zst.age --identity ~/.ssh/id_ed25519 --signer responder.pub"
FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    _image.add_arguments(parser)
    parser.add_argument("--manifest", metavar="FILE", help="the manifest (default: IMAGE.json)")
    parser.add_argument(
        "--signer", metavar="FILE", help="the SSH public key that must have signed the manifest"
    )
    parser.add_argument(
        "--allowed-signers",
        metavar="FILE",
        help="the keys that may have signed it, as ssh-keygen(1) describes under ALLOWED SIGNERS",
    )
    parser.add_argument(
        "--start-record",
        action="store_true",
        help="begin a chain of custody, IMAGE.custody.jsonl, where there is none",
    )
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="how to write it (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Verify; 0 where all that could be checked holds, 1 where something does not, or nothing could be."""
    if args.signer and args.allowed_signers:
        raise UsageError("--signer and --allowed-signers: give one of them")
    wanted = Wanted(
        image=Path(args.image),
        manifest=args.manifest and Path(args.manifest),
        signers=args.signer or args.allowed_signers,
        **_image.keys(args),
        public_key=bool(args.signer),
        begin_record=args.start_record,
    )
    bars: list[Progress] = []

    def progress(size: int) -> Progress:
        bars.append(Progress(size, sys.stderr))
        return bars[0]

    try:
        found = verify(wanted, progress)
    finally:
        for bar in bars:
            bar.clear()
    if args.format == "json":
        from memdump.report.json import encode

        print(encode(report.facts(found, args.image)))
    else:
        for line in report.lines(found):
            print(visible(line))
    if found.trouble:
        print(f"memdump: {visible(found.trouble)}", file=sys.stderr)
    return 0 if found.holds else FAILED
