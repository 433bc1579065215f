"""age v1 (https://c2sp.org/age): a layer that seals what is written, and one that is read at any place.

Behind the header and 16 random bytes come chunks of 64 KiB, each encrypted and authenticated for itself and
for its number; the last one is marked as such, so that neither a changed, moved, foreign nor missing chunk
goes unnoticed.  Plaintext is held in memory only, and only as much of it as is read.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from memdump.errors import MemdumpError, NotADump, UsageError
from memdump.image.age_armour import is_armoured, remove_armour
from memdump.image.age_header import (
    FAMILY,
    FILE_KEY_SIZE,
    LARGEST,
    SCRYPT,
    decode_header,
    encode_header,
    hkdf,
)
from memdump.image.age_keys import TAG_SIZE, Passphrase
from memdump.image.age_unlock import unlock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    from memdump.image.age_keys import Identity, Recipient
    from memdump.image.content import Content
    from memdump.machine.pipeline import Stream

CHUNK = 64 << 10
SEALED = CHUNK + TAG_SIZE
NONCE_SIZE = 16

BATCH = 16 * CHUNK
"""What a thread encrypts or decrypts at a time."""
MOST_THREADS = 4
REMEMBERED = 64
"""Chunks whose plaintext is kept, in case that they are read again."""


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
        self._stream = stream
        self._cipher = _cipher(file_key, nonce)
        self._threads = _threads()
        self._pool = ThreadPoolExecutor(self._threads, "age")
        self._sealing: deque[Future[list[bytes]]] = deque()
        self._buffer = bytearray(BATCH)
        self._filled = 0
        self._count = 0
        self._closed = False
        stream.write(header + nonce)

    def write(self, data: bytes | memoryview) -> None:
        """Take more plaintext; what the stream behind raises may come out of a later call, and is the end."""
        if self._closed:
            raise ValueError("written to after its end")
        view = memoryview(data).cast("B")
        while view:
            if self._filled == BATCH:
                self._seal(final=False)
            taken = min(BATCH - self._filled, len(view))
            self._buffer[self._filled : self._filled + taken] = view[:taken]
            self._filled += taken
            view = view[taken:]

    def close(self) -> None:
        """Write the last chunk, marked as such; the stream behind stays open."""
        if not self._closed:
            self._seal(final=True)
            self._send(0)
            self._closed = True
            self._pool.shutdown()

    def _seal(self, *, final: bool) -> None:
        plain = memoryview(self._buffer)[: self._filled]
        self._sealing.append(self._pool.submit(_encrypt, self._cipher, plain, self._count, final))
        self._count += BATCH // CHUNK
        self._buffer = bytearray(BATCH)
        self._filled = 0
        self._send(self._threads)

    def _send(self, most: int) -> None:
        """Write what is sealed, until no more than so many batches are on their way."""
        try:
            while len(self._sealing) > most:
                for chunk in self._sealing.popleft().result():
                    self._stream.write(chunk)
        except BaseException:
            # A gap would make all that follows worthless, and a last chunk behind it would hide that.
            self._closed = True
            self._sealing.clear()
            self._pool.shutdown(wait=False)
            raise


def _encrypt(cipher: ChaCha20Poly1305, plain: memoryview, number: int, final: bool) -> list[bytes]:
    chunks = []
    for at in range(0, max(len(plain), 1), CHUNK):
        last = final and at + CHUNK >= len(plain)
        chunks.append(cipher.encrypt(_nonce(number + at // CHUNK, last), plain[at : at + CHUNK], None))
    return chunks


class AgeContent:
    """The plaintext of an age file, sliced like `bytes`: only the chunks that a slice touches are decrypted.

    A file in ASCII armour is taken out of it first, in memory.
    """

    def __init__(
        self,
        content: Content,
        identities: Sequence[Identity],
        *,
        name: object = "this file",
        partial: bool = False,
    ) -> None:
        """Open a file and check its header and its end.

        Raises `NotPermitted` where none of the identities opens it, `NotADump` where it is damaged.  With
        `partial`, a file whose end is missing is opened with what is whole of it, and `defects` says so.
        `name` is what messages call the file.
        """
        self.defects: list[str] = []
        self._name = name
        self._content = content
        self._pool: ThreadPoolExecutor | None = None
        self._remembered = functools.lru_cache(REMEMBERED)(lambda number: self._decrypt(number, 1)[0])
        with self._named():
            self._sealed = remove_armour(content) if is_armoured(content) else content
            header = decode_header(self._sealed)
            file_key = unlock(header, identities)
            self._start = header.size + NONCE_SIZE
            nonce = self._sealed[header.size : self._start]
            if len(nonce) < NONCE_SIZE:
                raise _cut_off("right behind its header")
            self._cipher = _cipher(file_key, nonce)
            self._final, self._size = self._find_end(partial)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, where: slice, /) -> bytes:
        start, stop, step = where.indices(self._size)
        if step != 1:
            raise ValueError("bytes are read one after another")
        if start >= stop:
            return b""
        first, last = start // CHUNK, (stop - 1) // CHUNK
        with self._named():
            chunks = self._chunks(first, last - first + 1)
        if first == last:
            return chunks[0][start % CHUNK : stop - last * CHUNK]
        chunks[0] = chunks[0][start % CHUNK :]
        chunks[-1] = chunks[-1][: stop - last * CHUNK]
        return b"".join(chunks)

    def close(self) -> None:
        """Forget what was decrypted, and close the file."""
        self._remembered.cache_clear()
        if self._pool is not None:
            self._pool.shutdown()
        self._content.close()

    def _chunks(self, first: int, count: int) -> list[bytes]:
        if count <= BATCH // CHUNK:
            return [self._remembered(number) for number in range(first, first + count)]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_threads(), "age")
        batches = range(first, first + count, BATCH // CHUNK)
        runs = self._pool.map(lambda at: self._decrypt(at, min(BATCH // CHUNK, first + count - at)), batches)
        return [chunk for run in runs for chunk in run]

    def _decrypt(self, first: int, count: int) -> list[bytes]:
        at = self._start + first * SEALED
        sealed = memoryview(self._sealed[at : at + count * SEALED])
        chunks = []
        for number in range(first, first + count):
            piece = sealed[(number - first) * SEALED :][:SEALED]
            chunk = self._opened(piece, number, final=number == self._final)
            if chunk is None:
                begin = self._start + number * SEALED
                raise NotADump(
                    f"the {len(piece)} bytes at {begin:#x} of it are damaged, or were changed since they were"
                    f" encrypted; take another copy"
                )
            chunks.append(chunk)
        return chunks

    def _opened(self, piece: bytes | memoryview, number: int, *, final: bool) -> bytes | None:
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(_nonce(number, final), piece, None)
        except InvalidTag:
            return None

    def _find_end(self, partial: bool) -> tuple[int | None, int]:
        """Find the number of the last chunk, where there is one, and the size of the plaintext."""
        whole, rest = divmod(len(self._sealed) - self._start, SEALED)
        final = whole if rest else whole - 1
        # No writer leaves the last chunk empty, but where it is the only one.
        if final == 0 or (final > 0 and rest != TAG_SIZE):
            last = self._opened(self._piece(final), final, final=True)
            if last is not None:
                return final, final * CHUNK + len(last)
        if partial:
            return self._without_end(whole)
        if whole and self._opened(self._piece(whole - 1), whole - 1, final=False) is not None:
            raise _cut_off(f"after {whole * CHUNK} bytes of plaintext, or what is behind them was changed")
        raise NotADump(
            "its last chunk is damaged: the file was cut off, or changed since it was written; take another"
            " copy, or give it a name that ends in .part, to open the chunks that are whole"
        )

    def _without_end(self, whole: int) -> tuple[None, int]:
        # A machine that went down may leave a file whose last blocks were never written.
        while whole and self._opened(self._piece(whole - 1), whole - 1, final=False) is None:
            whole -= 1
        lost = len(self._sealed) - self._start - whole * SEALED
        self.defects.append(
            f"truncated: the end of the age file is missing; {whole * CHUNK} bytes of the content are whole,"
            f" and the last {lost} bytes of the file are lost"
        )
        return None, whole * CHUNK

    def _piece(self, number: int) -> bytes:
        at = self._start + number * SEALED
        return self._sealed[at : at + SEALED]

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except MemdumpError as error:
            raise type(error)(f"{self._name}: {error}") from None


def is_age(content: Content | bytes) -> bool:
    """Whether a file is encrypted with age, by its first bytes."""
    return content[: len(FAMILY)] == FAMILY or is_armoured(content)


def wants_passphrase(content: Content) -> bool:
    """Whether an age file is opened by a passphrase, not by keys; raises `NotADump` where it is damaged."""
    header = decode_header(remove_armour(content) if is_armoured(content) else content)
    return header.stanzas[0].kind == SCRYPT


def _cut_off(where: str) -> NotADump:
    return NotADump(
        f"is truncated {where}; take another copy, or give it a name that ends in .part to open what is whole"
    )


def _cipher(file_key: bytes, nonce: bytes) -> ChaCha20Poly1305:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(hkdf(file_key, nonce, b"payload"))


def _nonce(number: int, final: bool) -> bytes:
    return (number << 8 | final).to_bytes(12, "big")


def _threads() -> int:
    return min(os.cpu_count() or 1, MOST_THREADS)
