"""Which format a file is in, by its first bytes; and what a file is that is no dump."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.errors import NotADump
from memdump.image import avml, elf, flattened, kdump, lime
from memdump.image.avml import AvmlImage
from memdump.image.elfcore import ElfImage
from memdump.image.flattened import Flattened
from memdump.image.kdump import KdumpImage
from memdump.image.lime import LimeImage
from memdump.image.raw import PAGE, SMALLEST, RawImage, may_be_raw

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.image.base import Image
    from memdump.image.content import Content

COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gzip -d"),
    b"\xfd7zXZ\x00": ("xz", "xz -d"),
    b"BZh": ("bzip2", "bzip2 -d"),
    b"\x04\x22\x4d\x18": ("lz4", "lz4 -d"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x"),
    b"PK\x03\x04": ("zip", "unzip"),
}
"""What a dump is often packed in: the first bytes, the name, and what unpacks it."""

FOREIGN = {
    b"DISKDUMP": "a diskdump of a kernel before 2.6, which memdump does not read",
    b"PAGEDU": "a crash dump of Windows",
    b"hibr": "a hibernation file of Windows",
    b"EVF\x09": "a disk image of EnCase",
    b"QFI\xfb": "a QEMU disk image; a snapshot in it is not readable, use `virsh dump --memory-only`",
    b"QEVM": "a saved state of QEMU; use `virsh dump --memory-only` or QMP dump-guest-memory",
    b"LibvirtQemudSave": "a saved state of libvirt; use `virsh dump --memory-only`",
    b"KDMV": "a VMware disk",
    b"\xd2\xbe\xd2\xbe": "a state file of VMware; give the .vmem file beside it",
    b"SQLite format 3\0": "an SQLite database",
    b"%PDF": "a PDF",
}
"""What is sometimes given in place of a dump."""


def recognise(path: Path, content: Content) -> Image:
    """Make an image of the file; raises `NotADump` where it is none."""
    start = content[:64]
    defects: list[str] = []
    if start.startswith(flattened.SIGNATURE):
        content = Flattened(content, defects)
        start = content[:64]
        if not start.startswith((elf.MAGIC, kdump.SIGNATURE)):
            why = defects[0] if defects else "neither an ELF core nor a kdump is in it"
            raise NotADump(
                f"{path}: is a flattened dump of makedumpfile that cannot be read: {why}; take it again"
            )
    if start.startswith(lime.SIGNATURE):
        return LimeImage(path, content)
    if start.startswith(avml.SIGNATURE):
        return AvmlImage(path, content)
    if start.startswith(elf.MAGIC):
        return ElfImage(path, content, defects)
    if start.startswith(kdump.SIGNATURE):
        return KdumpImage(path, content, defects)
    _refuse(path, start)
    if not may_be_raw(content):
        raise NotADump(
            f"{path}: is in no format that memdump knows, and no raw image, either: those have whole pages of"
            f" {PAGE} bytes and at least {SMALLEST} bytes, this has {len(content)}"
        )
    return RawImage(path, content)


def _refuse(path: Path, start: bytes) -> None:
    for signature, (name, command) in COMPRESSED.items():
        if start.startswith(signature):
            raise NotADump(f"{path}: is packed with {name}; unpack it first with `{command}`")
    for signature, what in FOREIGN.items():
        if start.startswith(signature):
            raise NotADump(f"{path}: is {what}, not an image of a machine's memory")
    if len(start) == 64 and all(byte in b"\t\n\r\f" or 0x20 <= byte < 0x7F for byte in start):
        raise NotADump(f"{path}: is a text file, not an image of a machine's memory")
