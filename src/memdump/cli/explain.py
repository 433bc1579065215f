"""``memdump explain``: why a process or a kernel crashed."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdump.cli import _custody, _image, _outcome
from memdump.cli._terminal import colour, room
from memdump.errors import UsageError
from memdump.report.text import visible

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from memdump.report.styled import Line

SUMMARY = "say why a process or a kernel crashed, with the evidence"
EXAMPLE = "memdump explain core.1234"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    _image.add_arguments(parser, "CORE")
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        help="where the root file system of the machine is that the core is from, if it was not this machine:"
        " programs and libraries are looked for there first",
    )
    parser.add_argument(
        "--environment",
        action="store_true",
        help="show the whole command line and the environment, in which there may be secrets",
    )
    parser.add_argument(
        "--files",
        action="store_true",
        help="show what the process knew of files: mapped ones, open streams of the C library, and texts in"
        " its memory that look like paths; its table of open files is in no core",
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to write it (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Explain it; 1 where something is missing from the answer, which is said on stderr."""
    from memdump.crash.unpacked import is_of_process

    if args.root is not None and not args.root.is_dir():
        raise UsageError(f"{args.root}: is no folder; give the one that the root file system is mounted at")
    path, keys = Path(args.image), _image.keys(args)
    if keys["ask"]:  # a passphrase is asked for once, though the file is opened twice
        keys["ask"] = functools.cache(keys["ask"])
    if path.exists() and is_of_process(path, **keys):
        return _process(path, keys, args)
    return _kernel(path, keys, args)


def _process(path: Path, keys: dict[str, Any], args: argparse.Namespace) -> int:
    from memdump.crash.explanation import explain
    from memdump.report import crash, crash_json

    found = explain(path, root=args.root, with_environment=args.environment, with_files=args.files, **keys)
    _custody.record_file(str(path), "opened")
    if args.format == "json":
        _print_json(crash_json.document(found))
    else:
        _print(crash.lines(found))
    return _ended(found.defects)


def _kernel(path: Path, keys: dict[str, Any], args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from memdump.crash.kernel import explain_kernel
    from memdump.dump import Dump
    from memdump.report import kernel_crash

    with Dump.open(path, **keys) as dump:
        _custody.record(dump.image, "opened")
        found = explain_kernel(dump)
        if args.format == "json":
            _print_json(asdict(found))
        else:
            _print(kernel_crash.lines(found))
        return _ended(found.defects) or _outcome.status(dump)


def _ended(defects: list[str]) -> int:
    for defect in defects:
        print(f"memdump: {visible(defect)}", file=sys.stderr)
    return _outcome.INCOMPLETE if defects else 0


def _print_json(document: Any) -> None:
    from memdump.report.json import encode

    print(encode(document))


def _print(lines: Iterable[Line]) -> None:
    from memdump.report.styled import render_wrapped

    wide = room(sys.stdout)
    coloured = colour(sys.stdout)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    for line in lines:
        for part in render_wrapped(line, wide, colour=coloured):
            print(part)
