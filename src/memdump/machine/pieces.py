"""How memory is cut: into blocks that are read at once, and pieces that have a range header in the image."""

import array
from typing import Iterable, Iterator, List, Sequence, Union, overload

from memdump.machine.source import Range, Source

BLOCK = 2 << 20
"""Bytes read at once."""
_SMALLEST_PIECE = 16 << 20
_PIECES = 1024
"""Range headers in an image, about: who opens it has to go from one to the next."""


class Ranges(Sequence[Range]):
    """Very many ranges, which take the room of their numbers only: a million of free pages are no rarity."""

    def __init__(self) -> None:
        self._numbers = array.array("Q")

    def __len__(self) -> int:
        return len(self._numbers) // 2

    @overload
    def __getitem__(self, index: int) -> Range: ...

    @overload
    def __getitem__(self, index: slice) -> "Sequence[Range]": ...

    def __getitem__(self, index: Union[int, slice]) -> Union[Range, Sequence[Range]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        place = 2 * range(len(self))[index]
        return Range(self._numbers[place], self._numbers[place + 1])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def add(self, new: Range) -> None:
        """Put a range behind all others, as `add` does."""
        if self._numbers and self[-1].end == new.start:
            self._numbers[-1] += new.size
        else:
            self._numbers.extend(new)

    def below(self, address: int) -> "Ranges":
        """Give what of them lies below an address."""
        found = Ranges()
        for span in self:
            if span.start >= address:
                break
            found.add(Range(span.start, min(span.end, address) - span.start))
        return found


def blocks(ranges: Sequence[Range]) -> Iterator[Range]:
    """Cut ranges into blocks, counted from the start of each range."""
    for found in ranges:
        for address in range(found.start, found.end, BLOCK):
            yield Range(address, min(BLOCK, found.end - address))


def piece_size(ranges: Sequence[Range]) -> int:
    """Choose the size of a piece, a multiple of `BLOCK`.

    An image can be ended in good order wherever a piece ends, so pieces are small; but not so small that
    there are very many.
    """
    amount = sum(found.size for found in ranges)
    return max(_SMALLEST_PIECE, -(-amount // _PIECES // BLOCK) * BLOCK)


def read_block(source: Source, address: int, buffer: memoryview, page_size: int) -> List[Range]:
    """Fill ``buffer``, which starts at a page, and give the pages that cannot be read; they become zeros."""
    try:
        source.read_into(address, buffer)
    except OSError:
        if len(buffer) <= page_size:
            buffer[:] = bytes(len(buffer))
            return [Range(address, len(buffer))]
        half = max(len(buffer) // 2 // page_size, 1) * page_size
        return read_block(source, address, buffer[:half], page_size) + read_block(
            source, address + half, buffer[half:], page_size
        )
    return []


def add(ranges: List[Range], new: Range) -> None:
    """Put a range behind all others; it becomes one with the last if that ends where it starts."""
    if ranges and ranges[-1].end == new.start:
        ranges[-1] = Range(ranges[-1].start, ranges[-1].size + new.size)
    else:
        ranges.append(new)


def joined(ranges: Iterable[Range]) -> List[Range]:
    """Put ranges in order; those that overlap or touch become one."""
    found: List[Range] = []
    for one in sorted(ranges):
        if found and one.start <= found[-1].end:
            found[-1] = Range(found[-1].start, max(found[-1].end, one.end) - found[-1].start)
        else:
            found.append(one)
    return found


def without(ranges: Sequence[Range], taken: Sequence[Range]) -> List[Range]:
    """Give what is left of ``ranges`` without ``taken``; both ascend, and no two of one overlap."""
    left = []
    holes = iter(taken)
    hole = next(holes, None)
    for found in ranges:
        start = found.start
        while hole is not None and hole.start < found.end:
            if hole.start > start:
                left.append(Range(start, hole.start - start))
            start = max(start, hole.end)
            if hole.end > found.end:  # it reaches into the next one
                break
            hole = next(holes, None)
        if start < found.end:
            left.append(Range(start, found.end - start))
    return left


def within(ranges: Sequence[Range], wanted: Sequence[Range]) -> List[Range]:
    """Give what of ``ranges`` lies in ``wanted``; both as for `without`."""
    return without(ranges, without(ranges, wanted))
