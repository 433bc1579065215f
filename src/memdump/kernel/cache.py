"""Remembers what was worked out about a kernel, so that its next image opens quickly.

A file per kernel build and KASLR offset, in ``$XDG_CACHE_HOME/memdump`` (``~/.cache/memdump``), holds the
flat arrays of the symbol table and of the BTF index.  It is only ever a short cut: a file that is torn, of
another version, or that another user could have written counts as absent, every look-up in it is checked as
one in the image is, and where nothing can be written, nothing is.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Literal, NamedTuple

from memdump.kernel.btf import BtfIndex
from memdump.kernel.symbols import SymbolTable

VERSION = 3
"""To be raised when the arrays, or what is put into them, change."""
HEADER = struct.Struct("<8sQ")
"""Magic, and the version above the CRC-32 of all that follows."""
LENGTHS = struct.Struct("<Q7Q")
"""CRC-32 of the BTF, and the length of each array in bytes."""
MAGIC = b"memdump\0"
MOST_FILES = 32
"""At 5 to 12 MB each."""
FORMATS: tuple[Literal["B", "I", "Q"], ...] = ("Q", "I", "B", "Q", "I", "Q", "Q")
"""The types of the arrays, in order: of `SymbolTable` and of `BtfIndex`."""


class Remembered(NamedTuple):
    """What the cache holds of a kernel."""

    symbols: SymbolTable
    btf: BtfIndex
    btf_check: int
    """CRC-32 of the BTF that the index was made of."""


def load(build_id: str, address: int) -> Remembered | None:
    """What is known of the kernel with that build id whose ``_text`` is at ``address``."""
    try:
        data = _read(_place(build_id, address))
        if data is None:
            return None
        btf_check, arrays = _parts(data)
    except (OSError, TypeError, ValueError, struct.error):
        return None
    addresses, starts, names, index, *btf = arrays
    if len(starts) != len(addresses) + 1 or len(index) != len(addresses):
        return None
    return Remembered(SymbolTable(addresses, starts, names, index), BtfIndex(*btf), btf_check)


def store(build_id: str, address: int, known: Remembered) -> None:
    """Remember a kernel.  A cache that cannot be written is no error."""
    parts = [memoryview(array).cast("B") for array in _all_arrays(known)]
    body = b"".join(bytes(part) + bytes(-len(part) % 8) for part in parts)
    lengths = LENGTHS.pack(known.btf_check, *(len(part) for part in parts))
    check = VERSION << 32 | zlib.crc32(body, zlib.crc32(lengths))
    header = HEADER.pack(MAGIC, check) + lengths
    place = _place(build_id, address)
    with contextlib.suppress(OSError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(header + body)
            Path(name).replace(place)
            _forget_oldest(place.parent)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _forget_oldest(folder: Path) -> None:
    """KASLR makes a file of every boot, so only the newest are worth their room."""
    files = sorted(folder.glob("*.kernel"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[MOST_FILES:]:
        file.unlink(missing_ok=True)


def _place(build_id: str, address: int) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - does not raise
    return Path(base) / "memdump" / f"{build_id}-{address:x}.kernel"


def _read(place: Path) -> bytes | None:
    """The contents of a file that nobody else can have written."""
    handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return None
        return file.read()


def _parts(data: bytes) -> tuple[int, list[memoryview]]:
    """The check of the BTF, and the arrays; raises `ValueError` where the file is not whole."""
    magic, check = HEADER.unpack_from(data)
    if magic != MAGIC or check != (VERSION << 32 | zlib.crc32(memoryview(data)[HEADER.size :])):
        raise ValueError("torn, or of another version")
    btf_check, *lengths = LENGTHS.unpack_from(data, HEADER.size)
    body = memoryview(data)[HEADER.size + LENGTHS.size :]
    arrays, at = [], 0
    for format_, length in zip(FORMATS, lengths, strict=True):
        arrays.append(body[at : at + length].cast(format_))
        at += length + -length % 8
    return btf_check, arrays


def _all_arrays(known: Remembered) -> tuple[memoryview, ...]:
    symbols = known.symbols
    arrays = (symbols.addresses, symbols.starts, symbols.names, symbols.index, *known.btf)
    return tuple(memoryview(array) for array in arrays)
