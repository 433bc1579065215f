"""Seal what is written with age: a layer of an image on its way out."""

from __future__ import annotations

import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from memdump.errors import UsageError
from memdump.image.age_chunks import BATCH, CHUNK, NONCE_SIZE, SEALED, chunk_nonce, payload_cipher, threads
from memdump.image.age_header import FILE_KEY_SIZE, LARGEST, encode_header
from memdump.image.age_keys import TAG_SIZE, Passphrase
from memdump.machine.buffers import page_aligned

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    from memdump.image.age_keys import Recipient
    from memdump.machine.pipeline import Stream


class AgeWriter:
    """Seals what is written to it, for some recipients; with some MB of memory, and up to four threads.

    What is written lies behind: up to six MB of it are on their way until `close`.
    """

    def __init__(self, stream: Stream, recipients: Sequence[Recipient]) -> None:
        """Write the header; raises `UsageError` where these recipients do not go together."""
        if not recipients:
            raise UsageError("nobody could open what is encrypted to no one; give a recipient")
        if len(recipients) > 1 and any(isinstance(recipient, Passphrase) for recipient in recipients):
            raise UsageError("a passphrase stands alone in an age file; give it or recipients, not both")
        file_key, nonce = os.urandom(FILE_KEY_SIZE), os.urandom(NONCE_SIZE)
        header = encode_header([recipient.wrap(file_key) for recipient in recipients], file_key)
        if len(header) > LARGEST:
            raise UsageError(f"the header for {len(recipients)} recipients would be too long; give fewer")
        self.passed_on = 0
        """Bytes of plaintext that the stream behind has taken, sealed."""
        self._busy = 0.0
        self._stream = stream
        self._cipher = payload_cipher(file_key, nonce)
        self._threads = threads()
        self._pool = ThreadPoolExecutor(self._threads, "age")
        self._sealing: deque[tuple[Future[tuple[bytes, float]], memoryview]] = deque()
        self._spare: list[memoryview] = []
        self._space = page_aligned(BATCH * CHUNK)
        self._filled = 0
        self._count = 0
        self._closed = False
        self._failure: BaseException | None = None
        stream.write(header + nonce)

    def write(self, data: bytes | memoryview) -> None:
        """Take more plaintext.

        What the stream behind raises may come out of a later call; it is the end, and every call raises it.
        """
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise ValueError("written to after its end")
        view = memoryview(data).cast("B")
        while view:
            if self._filled == len(self._space):
                self._seal(final=False)
            taken = min(len(self._space) - self._filled, len(view))
            self._space[self._filled : self._filled + taken] = view[:taken]
            self._filled += taken
            view = view[taken:]

    @property
    def seconds(self) -> float:
        """How long it was encrypting so far, as if all of its threads had done so at the same time."""
        return self._busy / self._threads

    def close(self) -> None:
        """Write the last chunk, marked as such; the stream behind stays open.  Raises as `write` does."""
        if self._failure is not None:
            raise self._failure
        if not self._closed:
            self._seal(final=True)
            self._send(0)
            self._closed = True
            self._pool.shutdown()

    def _seal(self, *, final: bool) -> None:
        plain = self._space[: self._filled]
        self._sealing.append(
            (self._pool.submit(_encrypt, self._cipher, plain, self._count, final), self._space)
        )
        self._count += BATCH
        self._send(self._threads)
        self._space = self._spare.pop() if self._spare else page_aligned(BATCH * CHUNK)
        self._filled = 0

    def _send(self, most: int) -> None:
        """Write what is sealed, until no more than so many batches are on their way."""
        try:
            while len(self._sealing) > most:
                result, space = self._sealing.popleft()
                sealed, seconds = result.result()
                self._busy += seconds
                self._stream.write(sealed)
                self.passed_on += len(sealed) // SEALED * CHUNK + max(len(sealed) % SEALED - TAG_SIZE, 0)
                self._spare.append(space)
        except BaseException as error:
            # A gap would make all that follows worthless, and a last chunk behind it would hide that.
            self._failure = error
            self._sealing.clear()
            self._pool.shutdown(wait=False)
            raise


def _encrypt(cipher: ChaCha20Poly1305, plain: memoryview, number: int, final: bool) -> tuple[bytes, float]:
    """Seal some chunks, and tell the seconds that it took."""
    started = time.monotonic()
    chunks = []
    for at in range(0, max(len(plain), 1), CHUNK):
        last = final and at + CHUNK >= len(plain)
        chunks.append(cipher.encrypt(chunk_nonce(number + at // CHUNK, last), plain[at : at + CHUNK], None))
    # What comes behind is quicker with few large pieces.
    return b"".join(chunks), time.monotonic() - started
