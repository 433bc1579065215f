"""How a page of a compressed kdump is decompressed; a library is loaded when the first page needs it.

Nothing that a page says about its size is believed: whatever would give more than a page is damaged.
"""

from __future__ import annotations

import functools
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ZLIB, LZO, SNAPPY, ZSTD = 0x01, 0x02, 0x04, 0x20
"""The flags of a page descriptor (makedumpfile, ``diskdump_mod.h``)."""
COMPRESSED = ZLIB | LZO | SNAPPY | ZSTD


def decompress(data: bytes, flags: int, size: int) -> bytes | None:
    """Give the ``size`` bytes of a page, or nothing where it is damaged or compressed in an unknown way."""
    way = flags & COMPRESSED
    if not way:
        return data if len(data) == size else None
    if way not in (ZLIB, LZO, SNAPPY, ZSTD):
        return None
    page = _decompressor(way)(data, size)
    return page if page is not None and len(page) == size else None


@functools.cache
def _decompressor(way: int) -> Callable[[bytes, int], bytes | None]:
    return {ZLIB: _zlib, LZO: _lzo, SNAPPY: _snappy, ZSTD: _zstd}[way]()


def _zlib() -> Callable[[bytes, int], bytes | None]:
    def inflate(data: bytes, size: int) -> bytes | None:
        stream = zlib.decompressobj()
        try:
            page = stream.decompress(data, size + 1)
        except zlib.error:
            return None
        return page if stream.eof else None

    return inflate


def _lzo() -> Callable[[bytes, int], bytes | None]:
    import lzallright

    def inflate(data: bytes, size: int) -> bytes | None:
        try:
            return lzallright.LZOCompressor.decompress(data, size)
        except lzallright.LZOError:
            return None

    return inflate


def _snappy() -> Callable[[bytes, int], bytes | None]:
    import cramjam

    def inflate(data: bytes, size: int) -> bytes | None:
        try:
            if cramjam.snappy.decompress_raw_len(data) != size:
                return None
            return bytes(cramjam.snappy.decompress_raw(data))
        except cramjam.DecompressionError:
            return None

    return inflate


def _zstd() -> Callable[[bytes, int], bytes | None]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 23)

    def inflate(data: bytes, size: int) -> bytes | None:
        try:
            # A frame that gives its size is trusted by the library, one that does not is bounded.
            if zstandard.frame_content_size(data) not in (size, -1):
                return None
            return decompressor.decompress(data, max_output_size=size)
        except zstandard.ZstdError:
            return None

    return inflate
