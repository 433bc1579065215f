"""``memdump convert``: an image in another format."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from memdump.cli import _custody
from memdump.errors import MemdumpError, UsageError
from memdump.image import open_image
from memdump.machine.interrupt import Interrupt
from memdump.machine.output import Output
from memdump.machine.progress import Progress
from memdump.report.text import visible

if TYPE_CHECKING:
    import argparse

    from memdump.image.base import Image

SUMMARY = "write an image in another format"
EXAMPLE = "memdump convert web1.avml web1.core"

FORMATS = ("lime", "raw", "elf")
SUFFIXES = {
    ".lime": "lime",
    ".raw": "raw",
    ".bin": "raw",
    ".mem": "raw",
    ".elf": "elf",
    ".core": "elf",
    ".vmcore": "elf",
}
INCOMPLETE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("image", metavar="IN", help="the image, in any format that memdump reads")
    parser.add_argument("out", metavar="OUT", help="the file to write; it must not exist")
    parser.add_argument(
        "--to",
        choices=FORMATS,
        help="LiME, raw with zeros between the ranges, or an ELF core for crash, drgn and gdb"
        f" (default: by the suffix of OUT: {' '.join(SUFFIXES)})",
    )


def run(args: argparse.Namespace) -> int:
    """Convert; 0 where all memory went over, 1 where the image is damaged."""
    kind = args.to or _by_suffix(args.out)
    if _same(Path(args.image), Path(args.out)):
        raise UsageError(f"{args.out}: is the image itself; write to another file")
    with open_image(args.image) as image:
        with Output(args.out) as out:
            _write(image, out, kind)
            out.commit()
        _custody.record(image, "converted", f"into {args.out}")
        print(args.out)
        for defect in image.defects:
            _say(f"{args.image}: {defect}")
        return INCOMPLETE if image.defects else 0


def _same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:  # one of them is not there
        return False


def _by_suffix(out: str) -> str:
    suffix = Path(out).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{out}: which format? Its suffix does not say; add --to lime, --to raw or --to elf")
    return SUFFIXES[suffix]


def _write(image: Image, out: Output, kind: str) -> None:
    shown = Progress(image.size)
    with Interrupt() as interrupt:

        def progress(done: int) -> None:
            shown(done)
            if interrupt.received:
                raise MemdumpError(f"stopped by {interrupt.received}; nothing was kept")

        try:
            if kind == "lime":
                from memdump.image.lime import write_lime

                write_lime(image, out, progress)
            elif kind == "raw":
                from memdump.image.raw import write_raw

                write_raw(image, out, progress)
            else:
                from memdump.image.elfwriter import write_elf

                write_elf(image, out, *_kernel_facts(image), progress)
        finally:
            shown.clear()


def _kernel_facts(image: Image) -> tuple[bytes | None, int | None]:
    """Give the VMCOREINFO and the base of the direct map, as far as the image or its kernel tell them."""
    from memdump.kernel import open_kernel

    try:
        kernel = open_kernel(image)
    except MemdumpError as error:
        if not image.vmcoreinfo:
            _say(f"no VMCOREINFO for crash and drgn goes into the ELF core: {error}")
        return image.vmcoreinfo, None
    return image.vmcoreinfo or kernel.vmcoreinfo, kernel.direct_map


def _say(line: str) -> None:
    print(f"memdump: {visible(line)}", file=sys.stderr)
