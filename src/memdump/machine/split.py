"""An image in several files of one size, for disks and services that take none larger.

``OUT.000``, ``OUT.001`` and so on, each of the same size but the last: ``cat OUT.???`` gives the whole.  All
of them are ``.part`` files until the last one is written, and ``OUT.000`` gets its name last: where it is,
the whole image is.  The digest of each is taken while it is written, so that one that is lost or changed can
be told from the others.
"""

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

from memdump.errors import MemdumpError, UsageError
from memdump.machine.beside import Beside
from memdump.machine.host import printable
from memdump.machine.manifest import Part
from memdump.machine.output import Output, refuse_existing, settle_folder
from memdump.machine.reserve import Reserve

SMALLEST = 1 << 20
"""Bytes; smaller ones would be many at once that are not on the disk yet, each an open file."""
MOST = 1000
"""Pieces; more digits would stand in another order in a folder."""


class SplitFile:
    """New files that take bytes as if they were one; what is not committed is kept as ``.part`` files."""

    def __init__(self, path: Path, size: int, expected: int = 0) -> None:
        """Create the first, of ``size`` bytes at most; ``expected`` is how many there may be in all.

        Raises `UsageError` where one of them exists, where there would be too many, or as `Output` does.
        """
        check(path, size, expected)
        self.path = os.fspath(path)
        self.size = size
        self._spare: Optional[Reserve] = None
        self._all: List[Output] = []
        self._open: List[Output] = []
        """Those that are not wholly on the disk yet; the last one is being written."""
        self._digests = _Digests(size)
        self._hashing = Beside("hash-pieces")
        self._add()

    @property
    def part(self) -> str:
        """The names of the unfinished files, for a message."""
        return f"{self._all[0].part} and those that follow it" if len(self._all) > 1 else self._all[0].part

    @property
    def parts(self) -> List[Part]:
        """The pieces, by the names that they have in the end, without what a failed write left of itself."""
        name = printable(Path(self.path).name)
        return [
            Part(f"{name}.{number:03}", size, sha256)
            for number, (size, sha256) in enumerate(self._digests.found())
        ]

    @property
    def trouble(self) -> Optional[str]:
        """Why it should come to its end; see `Output.trouble`."""
        return next((piece.trouble for piece in self._all if piece.trouble), None)

    @property
    def spare(self) -> Optional[Reserve]:
        """Room that is given up when the disk is full."""
        return self._spare

    @spare.setter
    def spare(self, spare: Reserve) -> None:
        self._spare = spare
        for piece in self._open:
            piece.spare = spare

    def write(self, data: Union[bytes, memoryview], /) -> None:
        """Write all of ``data``; raises as `Output.write` does."""
        view = memoryview(data).cast("B")
        self._hashing.start(lambda: self._digests.update(view))
        try:
            self._write(view)
        except BaseException:
            self._hashing.wait()
            self._digests.undo()
            raise
        self._hashing.wait()

    def _write(self, view: memoryview) -> None:
        while view:
            room = self.size - self._open[-1].position
            if not room:
                self._add()
                continue
            self._open[-1].write(view[:room])
            view = view[room:]

    def _add(self) -> None:
        if len(self._all) == MOST:
            raise MemdumpError(
                f"{self.path}: is larger than {MOST} pieces; what was written stands in {self.part}"
            )
        piece = Output(f"{self.path}.{len(self._all):03}", keep_partial=True)
        piece.spare = self._spare
        self._all.append(piece)
        self._open.append(piece)

    def settle(self) -> None:
        """Put what was written so far on the disk; raises as `Output.settle` does.

        This may run beside `write`, which adds pieces at the end and writes to the last one.
        """
        found = list(self._open)
        for piece in found:
            piece.settle()
        for piece in found[:-1]:
            piece.close()
        del self._open[: len(found) - 1]

    def cut(self) -> None:
        """Cut off what a failed write left behind, be it pieces; raises `MemdumpError`."""
        sizes = [size for size, _ in self._digests.found()]
        for piece in self._all[len(sizes) :]:
            piece.close()
            with contextlib.suppress(OSError):
                Path(piece.part).unlink()
        del self._all[len(sizes) :]
        self._open = [piece for piece in self._open if piece in self._all]
        for piece, size in zip(self._all, sizes):  # noqa: B905 (Python 3.8)
            if piece in self._open or piece.position != size:
                piece.end_at(size)

    def rewrite(self, last: Sequence[bytes]) -> None:
        """Write the last bytes once more, which the system lost for want of room; raises as `write` does."""
        data = memoryview(b"".join(last))
        for piece in reversed(self._open):
            start = max(len(data) - piece.position, 0)
            piece.rewrite([data[start:]])
            data = data[:start]

    def commit(self) -> None:
        """Make all durable, then give them their names, the first one last; raises `MemdumpError`."""
        for piece in self._open:
            piece.seal()
        self._hashing.close()
        for piece in reversed(self._all):
            piece.give_name()
        settle_folder(self.path)

    def close(self) -> None:
        """Let go of the files, under the names that they have."""
        for piece in self._all:
            piece.close()
        self._hashing.close()


class _Digests:
    """The digests of bytes that are cut into pieces of one size."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._done: List[str] = []
        """Of the pieces that are full."""
        self._hash = hashlib.sha256()
        self._filled = 0
        self._before = (0, self._hash, 0)

    def update(self, view: memoryview) -> None:
        """Take more bytes."""
        self._before = (len(self._done), self._hash.copy(), self._filled)
        while view:
            part = view[: self._size - self._filled]
            self._hash.update(part)
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == self._size:
                self._done.append(self._hash.hexdigest())
                self._hash, self._filled = hashlib.sha256(), 0

    def undo(self) -> None:
        """Forget what came last."""
        count, self._hash, self._filled = self._before
        del self._done[count:]

    def found(self) -> List[Tuple[int, str]]:
        """Give the size and the digest of each piece; there is one at least."""
        found = [(self._size, sha256) for sha256 in self._done]
        if self._filled or not found:
            found.append((self._filled, self._hash.hexdigest()))
        return found


def check(path: Path, size: int, expected: int) -> None:
    """Raise `UsageError` where there would be too many pieces, or where the folder has some of that name.

    Those would be taken for ours.
    """
    if size < SMALLEST:
        raise UsageError(f"pieces of {size} bytes are too small; the least is {SMALLEST >> 20} MiB")
    if expected > MOST * size:
        least = -(-expected // MOST // SMALLEST)
        raise UsageError(f"there would be more than {MOST} pieces; make them {least} MiB at least")
    name = re.compile(re.escape(path.name) + r"\.[0-9]{3}(\.part)?")
    with contextlib.suppress(OSError):  # creating the first one will tell why
        for entry in sorted(path.parent.iterdir()):
            if name.fullmatch(entry.name):
                refuse_existing(str(entry))
