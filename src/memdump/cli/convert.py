"""``memdump convert``: an image in another format, compressed and encrypted or neither."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from memdump.cli import _custody, _image, _sealing
from memdump.errors import MemdumpError, UsageError
from memdump.image import open_image
from memdump.image.copying import StreamTarget
from memdump.machine.interrupt import Interrupt
from memdump.machine.output import Output
from memdump.machine.progress import Progress
from memdump.report.text import visible
from memdump.seal import COMPRESSED, ENCRYPTED, Sealing

if TYPE_CHECKING:
    import argparse

    from memdump.image.base import Image
    from memdump.image.copying import Target

SUMMARY = "write an image in another format, or sealed, or no longer sealed"
EXAMPLE = "memdump convert web1.avml web1.lime.zst.age --recipient age1..."

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
    _image.add_arguments(parser, "IN")
    parser.add_argument(
        "out",
        metavar="OUT",
        help=f"the file to write; it must not exist. {COMPRESSED} and {ENCRYPTED} at the end seal it",
    )
    parser.add_argument(
        "--to",
        choices=FORMATS,
        help="LiME, raw with zeros between the ranges, or an ELF core for crash, drgn and gdb"
        f" (default: by the suffix of OUT: {' '.join(SUFFIXES)})",
    )
    _sealing.add_arguments(parser.add_argument_group("how it is sealed"))


def run(args: argparse.Namespace) -> int:
    """Convert; 0 where all memory went over, 1 where the image is damaged."""
    sealing = _sealed(args)
    name = _sealing.named(args.out, sealing) if sealing.layers else args.out
    kind = args.to or _by_suffix(name.removesuffix(sealing.suffix))
    if _same(Path(args.image), Path(name)):
        raise UsageError(f"{name}: is the image itself; write to another file")
    with open_image(args.image, **_image.keys(args)) as image:
        if any(layer.name == "age" for layer in image.layers):
            _sealing.warn(sealing, name)
        with Output(name) as out:
            stream = sealing.upon(out)
            _write(image, StreamTarget(stream, name) if sealing.layers else out, kind)
            metadata = image.metadata if image.format == kind == "lime" else b""
            stream.close((lambda: [metadata]) if metadata else None)
            out.commit()
        _custody.record(image, "converted", f"into {name}")
        print(name)
        for defect in image.defects:
            _say(f"{args.image}: {defect}")
        return INCOMPLETE if image.defects else 0


def _sealed(args: argparse.Namespace) -> Sealing:
    """Decide how to seal it: other than an acquisition, not unless something says so."""
    if args.recipient or args.passphrase or args.out.endswith(ENCRYPTED):
        return _sealing.choose(args, args.out)
    return Sealing(args.compress or args.out.endswith(COMPRESSED))


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


def _write(image: Image, out: Target, kind: str) -> None:
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
                from memdump.image import told
                from memdump.image.elfwriter import write_elf

                image.architecture = told.architecture(image)
                write_elf(image, out, *_kernel_facts(image), progress)
        finally:
            shown.clear()


def _kernel_facts(image: Image) -> tuple[bytes | None, int | None]:
    """Give the VMCOREINFO and the base of the direct map, as far as the image or its kernel tell them."""
    from memdump.image import told
    from memdump.kernel import open_kernel

    known = told.vmcoreinfo(image)
    try:
        kernel = open_kernel(image)
    except MemdumpError as error:
        if not known:
            _say(f"no VMCOREINFO for crash and drgn goes into the ELF core: {error}")
        return known, None
    return image.vmcoreinfo or kernel.vmcoreinfo, kernel.direct_map


def _say(line: str) -> None:
    print(f"memdump: {visible(line)}", file=sys.stderr)
