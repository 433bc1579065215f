"""A core as a plain file, whatever it is packed in: drgn and pystack read files only.

systemd-coredump packs cores with zstd, lz4 or xz.  What was packed is unpacked into a file without a name in
the folder for temporary files; what was encrypted, into memory, so that it comes to stand on no disk.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import zstandard

from memdump.crash.core import Core
from memdump.errors import MemdumpError, NotADump
from memdump.image import elf
from memdump.image.age_armour import is_age
from memdump.image.content import Damaged, open_content
from memdump.image.layers import open_layers
from memdump.image.zstd_layout import is_zstd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.image.content import Content
    from memdump.image.layers import Ask, Key

LZ4, XZ = b"\x04\x22\x4d\x18", b"\xfd7zXZ\x00"
STEP = 1 << 20
PAGE = 4096
LARGEST_WINDOW = 1 << 27
XZ_MEMORY = 1 << 30


HEAD = 8 << 20
"""Bytes from the beginning of a core, in which its notes are."""


def is_of_process(path: Path, identity: Key = None, ask: Ask | None = None) -> bool:
    """Whether a file is the core of a process, packed or not, rather than the memory of a machine.

    Raises `NotADump` and `NotPermitted` as `Unpacked` does.
    """
    head = _head(path, identity, ask)
    if not head.startswith(elf.MAGIC):
        return False
    try:
        return Core(path, cast("Content", head)).belongs_to_process
    except NotADump:
        return True  # a 32-bit core, or a program: explaining it will say so


def _head(path: Path, identity: Key, ask: Ask | None) -> bytes:
    """The beginning of what is in the file."""
    content: Content = open_content(path)
    try:
        start = content[:64]
        if start.startswith((LZ4, XZ)):
            return elf.MAGIC  # no image of a machine that can be read is packed so
        if is_zstd(start):
            decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
            with path.open("rb") as packed:
                return decompressor.stream_reader(packed, read_across_frames=True).read(HEAD)
        if is_age(content):
            content.close()
            content = open_layers(path, identity, ask).content
        return content[:HEAD]
    except (Damaged, zstandard.ZstdError) as error:
        raise NotADump(f"{path}: cannot be read: {error}") from None
    finally:
        content.close()


class Unpacked:
    """A core's bytes, and the file that has them; closed by the block."""

    def __init__(self, path: Path, identity: Key = None, ask: Ask | None = None) -> None:
        """Open it; raises `NotADump` where it cannot be read, `NotPermitted` where it may not be."""
        self.path = path
        self.packing = ""
        """What it was packed with, as the user knows it."""
        self.defects: list[str] = []
        self._spool: IO[bytes] | None = None
        content: Content = open_content(path)
        try:
            content = self._open(content, identity, ask)
        except BaseException:
            content.close()
            self.close()
            raise
        self.content = content

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a process must inherit that is to open `file`."""
        return (self._spool.fileno(),) if self._spool else ()

    @property
    def file(self) -> Path:
        """A file with the core in it, as long as this is open."""
        return Path(f"/proc/self/fd/{self._spool.fileno()}") if self._spool else self.path

    def _open(self, content: Content, identity: Key, ask: Ask | None) -> Content:
        start = content[:64]
        if is_age(content):
            content.close()
            return self._decrypted(identity, ask)
        if is_zstd(start):
            unpack = self._unpack_zstd
        elif start.startswith(LZ4):
            unpack = self._unpack_lz4
        elif start.startswith(XZ):
            unpack = self._unpack_xz
        else:
            return content
        content.close()
        with _full_disk(self.path):
            self._spool = tempfile.TemporaryFile(dir=_folder())  # noqa: SIM115 - open as long as this is
            unpack(self._spool)
            self._spool.truncate()
            self._spool.flush()
        if not os.fstat(self._spool.fileno()).st_size:
            raise NotADump(f"{self.path}: is packed with {self.packing}, and nothing of it can be unpacked")
        return open_content(self.file)

    def _unpack_zstd(self, out: IO[bytes]) -> None:
        self.packing = "zstd"
        decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
        with (
            self.path.open("rb") as packed,
            decompressor.stream_reader(packed, read_across_frames=True) as reader,
            self._noting(zstandard.ZstdError),
        ):
            while data := reader.read(STEP):
                _write_sparse(out, data)

    def _unpack_xz(self, out: IO[bytes]) -> None:
        self.packing = "xz"
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        with self.path.open("rb") as packed, self._noting(lzma.LZMAError, EOFError):
            while not decompressor.eof:
                data = packed.read(STEP) if decompressor.needs_input else b""
                if decompressor.needs_input and not data:
                    raise EOFError("the file ends early")
                _write_sparse(out, decompressor.decompress(data, STEP))

    def _unpack_lz4(self, out: IO[bytes]) -> None:
        import cramjam

        self.packing = "lz4"
        target = Path(f"/proc/self/fd/{out.fileno()}")
        with self._noting(cramjam.DecompressionError):
            cramjam.lz4.decompress_into(cramjam.File(str(self.path)), cramjam.File(str(target)))
        out.seek(0, os.SEEK_END)

    @contextlib.contextmanager
    def _noting(self, *damage: type[BaseException]) -> Iterator[None]:
        """Keep what was unpacked before the packed data turn out to be damaged or cut off."""
        try:
            yield
        except damage as error:
            self.defects.append(f"damaged: what is packed with {self.packing} ends early: {error}")

    def _decrypted(self, identity: Key, ask: Ask | None) -> Content:
        opened = open_layers(self.path, identity, ask)
        self.packing = " in ".join(layer.name for layer in reversed(opened.layers))
        self.defects += opened.defects
        self._spool = os.fdopen(os.memfd_create("core", os.MFD_CLOEXEC), "w+b")
        try:
            for at in range(0, len(opened.content), STEP):
                try:
                    data = opened.content[at : at + STEP]
                except Damaged as error:
                    self.defects.append(f"damaged: {error}")
                    data = bytes(min(STEP, len(opened.content) - at))
                _write_sparse(self._spool, data)
        finally:
            opened.content.close()
        self._spool.truncate()
        self._spool.flush()
        return open_content(self.file)

    def close(self) -> None:
        """Close the file; what was unpacked is gone with it."""
        if hasattr(self, "content"):
            self.content.close()
        if self._spool:
            self._spool.close()


def _write_sparse(out: IO[bytes], data: bytes) -> None:
    """Write, leaving holes for what is zero: most of a core is."""
    if data.count(0) == len(data):
        out.seek(len(data), os.SEEK_CUR)
    else:
        out.write(data)


def _folder() -> str:
    """Where large temporary files go: ``/tmp`` is in memory on many machines (file-hierarchy(7))."""
    large = Path("/var/tmp")  # noqa: S108 - a file without a name is made there
    usable = "TMPDIR" not in os.environ and os.access(large, os.W_OK)
    return str(large) if usable else tempfile.gettempdir()


@contextlib.contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MemdumpError(
            f"{path}: cannot be unpacked into {_folder()}: {error.strerror or error};"
            " set TMPDIR to a folder with more room"
        ) from None
