"""An image in several files, ``NAME.000``, ``NAME.001`` and so on, read as the one that it was made of.

`memdump.machine.split` writes them: all of one size but the last.  Pieces that were not finished are called
``NAME.000.part``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memdump.errors import NotADump
from memdump.image.content import open_content

if TYPE_CHECKING:
    import mmap
    from pathlib import Path

PIECE = re.compile(r"(.+)\.([0-9]{3})(\.part)?", re.DOTALL)


class Joined:
    """Files one behind the other, sliced as one."""

    def __init__(self, pieces: list[mmap.mmap]) -> None:
        """Take them in their order; all have the size of the first one but the last, which has no more."""
        self._pieces = pieces
        self._size = len(pieces[0])
        self._length = sum(map(len, pieces))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: slice, /) -> bytes:
        start, stop, _ = where.indices(self._length)
        number, begin = divmod(start, self._size)
        if begin + stop - start <= self._size and start < stop:
            return self._pieces[number][begin : begin + stop - start]
        parts = []
        while start < stop:
            number, begin = divmod(start, self._size)
            parts.append(self._pieces[number][begin : begin + stop - start])
            start += len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Unmap and close the files."""
        for piece in self._pieces:
            piece.close()


def whole_of(path: Path) -> tuple[Path, list[Path]]:
    """Give the name of the whole image that a path means, and its pieces; none where it is no such image.

    Raises `NotADump` where a piece is missing.
    """
    whole, pieces = pieces_of(path)
    for number in range(max(pieces, default=0)):
        if number not in pieces:
            missing = path.with_name(f"{whole.name.removesuffix('.part')}.{number:03}")
            raise NotADump(f"{missing}: this piece of the image is missing; copy it beside the others")
    return whole, [pieces[number] for number in sorted(pieces)]


def pieces_of(path: Path) -> tuple[Path, dict[int, Path]]:
    """Give the name of the whole image that a path means, and those of its pieces that are there."""
    found = PIECE.fullmatch(path.name)
    if found is not None:
        name, ending = found[1], found[3] or ""
    elif _stands(path):
        return path, {}
    else:
        name = path.name.removesuffix(".part")
        ending = path.name[len(name) :]
    pieces = _pieces(path.parent, name)
    if not pieces or (found is not None and 0 not in pieces and len(pieces) == 1):
        return path, {}
    return path.with_name(name + ending), pieces


def _stands(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # what is wrong shows when it is opened
        return True


def _pieces(folder: Path, name: str) -> dict[int, Path]:
    pieces: dict[int, Path] = {}
    try:
        files = sorted(folder.iterdir(), reverse=True)
    except OSError:
        return {}
    for file in files:
        found = PIECE.fullmatch(file.name)
        if found is not None and found[1] == name:
            pieces[int(found[2])] = file  # the finished one, where both are there
    return pieces


def open_joined(whole: Path, files: list[Path]) -> Joined:
    """Map the pieces; raises `NotADump` and `NotPermitted` as `open_content` does, and where one is short."""
    pieces: list[mmap.mmap] = []
    try:
        for file in files:
            if pieces and len(pieces[-1]) != len(pieces[0]):
                raise NotADump(
                    f"{files[len(pieces) - 1]}: has {len(pieces[-1])} bytes, where all pieces of {whole} but"
                    f" the last have {len(pieces[0])}; copy it again"
                )
            pieces.append(open_content(file))
        if len(pieces[-1]) > len(pieces[0]):
            raise NotADump(f"{files[-1]}: is larger than the other pieces of {whole}; is it one of them?")
    except BaseException:
        for piece in pieces:
            piece.close()
        raise
    return Joined(pieces)
