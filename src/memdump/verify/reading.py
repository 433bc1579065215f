"""Reading whole files, and what is in them, to take their digests."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from memdump.image.content import Content

STEP = 16 << 20
"""Bytes read at once; of a compressed image, enough for all cores."""


class Reading:
    """Reads a step ahead of the digest, and tells how far it is."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        self._progress = progress
        self._done = 0

    def files(self, paths: Sequence[Path], size: int) -> str:
        """Give the digest of the first ``size`` bytes of files that follow each other; raises ``OSError``."""
        whole = hashlib.sha256()
        for path in paths:
            size -= self.file(path, size, whole)
        return whole.hexdigest()

    def file(self, path: Path, size: int, *digests: hashlib._Hash) -> int:
        """Add the first ``size`` bytes of a file, or all that it has, to digests; gives how many those are.

        They are read, not mapped: a disk that fails is an ``OSError`` then.
        """
        with path.open("rb", buffering=0) as file:
            length = min(size, os.fstat(file.fileno()).st_size)
            for data in self._steps(partial(_read, file.fileno()), length):
                for digest in digests:
                    digest.update(data)
        return length

    def content(self, content: Content) -> str:
        """Give the digest of a content; raises what reading it raises."""
        digest = hashlib.sha256()
        for data in self._steps(lambda at, size: content[at : at + size], len(content)):
            digest.update(data)
        return digest.hexdigest()

    def _steps(self, read: Callable[[int, int], bytes], size: int) -> Iterator[bytes]:
        with ThreadPoolExecutor(1, "ahead") as pool:
            at = 0
            ahead = pool.submit(read, at, min(STEP, size))
            while at < size:
                data = ahead.result()
                if not data:
                    raise OSError("it became shorter while it was read")
                at += len(data)
                ahead = pool.submit(read, at, min(STEP, size - at))
                yield data
                self._done += len(data)
                self._progress(self._done)


def _read(descriptor: int, at: int, size: int) -> bytes:
    return os.pread(descriptor, size, at)
