"""Read an age file at any place: plaintext is held in memory only, and only as much of it as is read."""

from __future__ import annotations

import contextlib
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from memdump.errors import MemdumpError, NotADump
from memdump.image.age_armour import is_armoured, remove_armour
from memdump.image.age_chunks import BATCH, CHUNK, NONCE_SIZE, SEALED, chunk_nonce, payload_cipher, threads
from memdump.image.age_header import SCRYPT, decode_header
from memdump.image.age_keys import TAG_SIZE
from memdump.image.age_unlock import unlock
from memdump.image.content import Damaged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memdump.image.age_keys import Identity
    from memdump.image.content import Content

REMEMBERED = 512
"""Chunks whose plaintext is kept, in case that they are read again: 32 MiB."""


class AgeContent:
    """The plaintext of an age file, sliced like `bytes`: only the chunks that a slice touches are decrypted.

    A slice that touches a chunk that was changed since it was written raises `Damaged`.  A file in ASCII
    armour is taken out of it first, in memory.
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
            self._cipher = payload_cipher(file_key, nonce)
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
        if count <= BATCH:
            return [self._remembered(number) for number in range(first, first + count)]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(threads(), "age")
        batches = range(first, first + count, BATCH)
        runs = self._pool.map(lambda at: self._decrypt(at, min(BATCH, first + count - at)), batches)
        return [chunk for run in runs for chunk in run]

    def _decrypt(self, first: int, count: int) -> list[bytes]:
        at = self._start + first * SEALED
        sealed = memoryview(self._sealed[at : at + count * SEALED])
        chunks = []
        for number in range(first, first + count):
            piece = sealed[(number - first) * SEALED :][:SEALED]
            chunk = self._opened(piece, number, final=number == self._final)
            if chunk is None:
                raise Damaged(number * CHUNK, len(piece) - TAG_SIZE)
            chunks.append(chunk)
        return chunks

    def _opened(self, piece: bytes | memoryview, number: int, *, final: bool) -> bytes | None:
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(chunk_nonce(number, final), piece, None)
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


def wants_passphrase(content: Content) -> bool:
    """Whether an age file is opened by a passphrase, not by keys; not, where its header is damaged."""
    try:
        header = decode_header(remove_armour(content) if is_armoured(content) else content)
    except NotADump:
        return False
    return header.stanzas[0].kind == SCRYPT


def _cut_off(where: str) -> NotADump:
    return NotADump(
        f"is truncated {where}; take another copy, or give it a name that ends in .part to open what is whole"
    )
