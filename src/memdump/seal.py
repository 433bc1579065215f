"""Sealing an image: LiME, then the Zstandard seekable format, then age, each a step of its own.

So ``age -d | zstd -d`` gives the LiME stream back on any machine.  This module stands outside the folders
because it joins what ``machine/`` acquires with the formats of ``image/``; the libraries are loaded when the
first image is sealed.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from typing import TYPE_CHECKING

from memdump.errors import UsageError
from memdump.machine.stage import Packing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from memdump.image.age import AgeWriter
    from memdump.image.age_keys import Recipient
    from memdump.image.zstd_seekable import SeekableWriter
    from memdump.machine.pipeline import Stream

COMPRESSED, ENCRYPTED = ".zst", ".age"
_STAGED_LEVEL = -1
"""What waits for a minute or two is compressed in a hurry."""


@dataclasses.dataclass(frozen=True)
class Sealing:
    """What is to be done with a stream."""

    compress: bool = False
    recipients: Sequence[Recipient] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """The steps, as a manifest names them, in the order in which they are taken."""
        return ("zstd",) * self.compress + ("age",) * bool(self.recipients)

    @property
    def suffix(self) -> str:
        """What the name of an image ends with behind ``.lime``."""
        return COMPRESSED * self.compress + ENCRYPTED * bool(self.recipients)

    def upon(self, stream: Stream) -> Sealed:
        """Begin a sealed stream that is written to another."""
        return Sealed(self, stream)

    def packing(self) -> Packing | None:
        """How early copies of pages are packed that may have to wait on a disk."""
        if not self.layers:
            return None
        return _packing(bool(self.recipients))


class Sealed:
    """A stream that seals what is written to it."""

    def __init__(self, sealing: Sealing, stream: Stream) -> None:
        self._age: AgeWriter | None = None
        self._zstd: SeekableWriter | None = None
        try:
            if sealing.recipients:
                from memdump.image.age import AgeWriter

                stream = self._age = AgeWriter(stream, sealing.recipients)
            if sealing.compress:
                from memdump.image.zstd_seekable import SeekableWriter

                stream = self._zstd = SeekableWriter(stream)
        except ImportError as error:
            raise not_installed(error) from None
        self._stream = stream

    def write(self, data: bytes | memoryview, /) -> None:
        """Take all of ``data``."""
        self._stream.write(data)

    def close(self, metadata: Callable[[], Iterable[bytes]] | None = None) -> None:
        """End the layers, with ``metadata`` inside where the format has room for it."""
        if self._zstd is not None:
            self._zstd.close(metadata)
        if self._age is not None:
            self._age.close()

    @property
    def seconds(self) -> tuple[float, float]:
        """How long it was compressing and encrypting so far."""
        return self._zstd.seconds if self._zstd else 0.0, self._age.seconds if self._age else 0.0

    def arrived(self, written: int) -> int:
        """Give how many bytes of the stream can be had from the first ``written`` of what it became."""
        if self._age is not None:
            written = self._age.passed_on
        return written if self._zstd is None else self._zstd.unpacked(written)


def _packing(encrypt: bool) -> Packing:
    try:
        import zstandard
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    except ImportError as error:
        raise not_installed(error) from None

    compressor = zstandard.ZstdCompressor(level=_STAGED_LEVEL)
    decompressor = zstandard.ZstdDecompressor()
    if not encrypt:
        return Packing(compressor.compress, decompressor.decompress)
    cipher = ChaCha20Poly1305(os.urandom(32))  # never stored: the copies are of no use to anybody else
    numbers = itertools.count()

    def pack(data: bytes | memoryview) -> bytes:
        nonce = next(numbers).to_bytes(12, "little")
        return nonce + cipher.encrypt(nonce, compressor.compress(data), None)

    def unpack(data: bytes | memoryview) -> bytes:
        return decompressor.decompress(cipher.decrypt(bytes(data[:12]), bytes(data[12:]), None))

    return Packing(pack, unpack)


def check_compression() -> None:
    """See that there is what compressing takes; raises `UsageError`."""
    try:
        import memdump.image.zstd_seekable  # noqa: F401
    except ImportError as error:
        raise not_installed(error) from None


def not_installed(error: ImportError) -> UsageError:
    """Say which library is missing, and how to do without."""
    return UsageError(
        f"nothing can be compressed or encrypted here, since {error.name!r} is missing: install memdump with"
        " pip; or send the image as it is to 'memdump receive', over TLS; or take it from a machine that has"
        " memdump, with --source ssh:HOST"
    )
