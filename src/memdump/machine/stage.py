"""Early copies of the kernel's pages, kept until the image comes to their addresses.

An analysis follows pointers from one structure of the kernel to the next.  Read in the order of their
addresses, on a machine that goes on running, the two ends of a pointer are read seconds or minutes apart, and
many lead nowhere any more.  So the pages of the kernel, a small part of all memory, are read first, in one
sweep; the image still has its addresses in ascending order, which some readers of LiME insist on.
"""

import array
import bisect
import errno
from typing import (
    Callable,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    Union,
)

from memdump.machine import pageflags, pieces
from memdump.machine.buffers import LINE, page_aligned
from memdump.machine.source import Range, Source

BUDGET = 40 << 20
"""Bytes of copies that are kept in memory, at most."""
PACKED_BUDGET = 12 << 20
"""The same where they are packed: what packs and seals the image needs the room, and they need less."""
_SHARE = 64
"""The part of a machine's memory that copies may overwrite: they are written over what is to be taken."""
_FLAGS_AT_ONCE = 64 << 20
"""Bytes of memory whose flags are asked for at once; a remote source answers each question after a while."""

_NUMBER = 8
"""Bytes of each number behind a copy: the address and size of each run, and their count."""
_SPILLED, _PACKED = 1, 2

Codec = Callable[[Union[bytes, memoryview]], bytes]


class Spill(Protocol):
    """Where copies go that find no room in memory."""

    def put(self, data: Union[bytes, memoryview]) -> int:
        """Keep ``data`` and tell where; raises ``OSError`` where it cannot."""

    def get(self, place: int, size: int) -> bytes:
        """Give it back."""


class Packing(NamedTuple):
    """How copies are made smaller, where a library for it is at hand."""

    pack: Codec
    unpack: Codec


class Early(NamedTuple):
    """Early copies of pages of one block."""

    runs: List[Range]
    data: memoryview
    """The bytes of all runs, one behind the other."""

    def parts(self) -> Iterator[Tuple[Range, memoryview]]:
        """Give each run with its bytes."""
        done = 0
        for run in self.runs:
            yield run, self.data[done : done + run.size]
            done += run.size

    def put(self, address: int, block: memoryview) -> None:
        """Put them into their places in the block that begins at ``address``."""
        for run, data in self.parts():
            block[run.start - address : run.end - address] = data


NOTHING = Early([], memoryview(b""))


class Stage:
    """Takes the kernel's pages from a source ahead of all others, and gives them when their turn comes."""

    def __init__(
        self,
        page_size: int,
        packing: Optional[Packing] = None,
        spill: Optional[Spill] = None,
        memory: int = BUDGET * _SHARE,
    ) -> None:
        """Keep copies of pages of a machine that has ``memory`` bytes."""
        self.taken = 0
        """Bytes of kernel pages that were taken early."""
        self.left = 0
        """Bytes for which there was no room, or whose copy was lost; they are read in their turn."""
        self._page_size = page_size
        self._packing = packing
        self._spill = spill
        self._used = 0
        self._budget = min(BUDGET if packing is None else PACKED_BUDGET, memory // _SHARE)
        self._memory: Optional[memoryview] = None
        # A machine of a terabyte has half a million blocks: arrays take the room of their numbers only.
        self._blocks = array.array("Q")
        self._sizes = array.array("Q")
        self._places = array.array("Q")
        self._kinds = array.array("B")
        self._filled = array.array("I")

    @property
    def read(self) -> int:
        """Bytes that the sweep has read, whatever became of them."""
        return self.taken + self.left

    def sweep(
        self,
        source: Source,
        blocks: Iterable[Range],
        stop: Callable[[], object],
        progress: Callable[[int], None],
    ) -> None:
        """Take the kernel's pages of these blocks, which are those that `early` is called with later.

        ``progress`` gets the bytes read so far.  Ends early where ``stop`` gives something.  Raises
        ``OSError`` where the source does not tell what its pages are.
        """
        scratch = page_aligned(pieces.BLOCK + _NUMBER * (2 * pieces.BLOCK // self._page_size + 1))
        # Memory that is asked for only when it is needed makes the kernel change what is being read.
        self._memory = page_aligned(max(self._budget, LINE), populated=True)
        for group in _groups(blocks, _FLAGS_AT_ONCE):
            if stop():
                return
            chosen = list(self._choose(source, group))
            source.expect([run for _, runs in chosen for run in runs])
            for block, runs in chosen:
                self._take(source, block, runs, scratch)
            progress(self.read)

    def _choose(self, source: Source, group: Sequence[Range]) -> Iterator[Tuple[Range, List[Range]]]:
        """Give the blocks of the group that have kernel pages, and the runs of these."""
        first = group[0].start
        flags = source.page_flags(first, group[-1].end - first)
        for block in group:
            start, end = ((at - first) // self._page_size * 8 for at in (block.start, block.end))
            runs = pageflags.kernel_runs(flags[start:end], block.start, self._page_size)
            if runs:
                yield block, runs

    def _take(self, source: Source, block: Range, runs: Sequence[Range], scratch: memoryview) -> None:
        size = sum(run.size for run in runs) + _NUMBER * (2 * len(runs) + 1)
        data = self._room(size) or scratch
        filled = 0
        kept = array.array("Q")
        for run in runs:
            # What cannot be read now is tried once more in its turn, and counts then.
            if not pieces.read_block(source, run.start, data[filled : filled + run.size], self._page_size):
                kept.extend(run)
                filled += run.size
        if kept:
            kept.append(len(kept) // 2)
            end = filled + _NUMBER * len(kept)
            data[filled:end] = memoryview(kept).cast("B")
            if self._store(block.start, data[:end], data is not scratch):
                self._filled.append(filled)
                self.taken += filled
            else:
                self.left += filled

    def _room(self, size: int) -> Optional[memoryview]:
        """Give the place for a copy in memory, unless it is packed first, or there is none."""
        if self._memory is None or self._packing is not None:
            return None
        return self._memory[self._used : self._used + size] if self._used + size <= self._budget else None

    def _store(self, address: int, copy: memoryview, in_place: bool) -> bool:
        """Keep a copy, which may stand in its place in memory already; false if there is no room for it."""
        kind, place = 0, self._used
        packed: Union[bytes, memoryview] = copy
        if self._packing is not None:
            packed, kind = self._packing.pack(copy), _PACKED
        size = len(packed)
        if self._memory is not None and self._used + size <= self._budget:
            if not in_place:
                self._memory[place : place + size] = packed
            self._used += -(-size // LINE) * LINE
        else:
            spilled = self._put_away(packed)
            if spilled is None:
                return False
            kind, place = kind | _SPILLED, spilled
        self._blocks.append(address)
        self._sizes.append(size)
        self._places.append(place)
        self._kinds.append(kind)
        return True

    def _put_away(self, copy: Union[bytes, memoryview]) -> Optional[int]:
        if self._spill is None:
            return None
        try:
            return self._spill.put(copy)
        except OSError:  # the disk is full: no more of it then, but what is there stays
            return None

    def early(self, address: int) -> "Early":
        """Give the early copies in the block that begins at ``address``."""
        index = bisect.bisect_left(self._blocks, address)
        if index == len(self._blocks) or self._blocks[index] != address:
            return NOTHING
        return self._early(index)

    def rest(self, address: int) -> Iterator["Early"]:
        """Give all early copies from the block on in which ``address`` lies."""
        first = max(bisect.bisect_right(self._blocks, address) - 1, 0)
        for index in range(first, len(self._blocks)):
            yield self._early(index)

    def _early(self, index: int) -> "Early":
        try:
            copy = memoryview(self._get(index))
        except OSError:  # the disk fails: what is there by now has to do
            self.taken -= self._filled[index]
            self.left += self._filled[index]
            return NOTHING
        (count,) = array.array("Q", copy[-_NUMBER:].tobytes())
        numbers = array.array("Q", copy[-_NUMBER * (2 * count + 1) : -_NUMBER].tobytes())
        return Early([Range(*pair) for pair in zip(numbers[::2], numbers[1::2])], copy)  # noqa: B905

    def _get(self, index: int) -> Union[bytes, memoryview]:
        kind, place, size = self._kinds[index], self._places[index], self._sizes[index]
        copy: Union[bytes, memoryview]
        if kind & _SPILLED:
            assert self._spill is not None
            copy = self._spill.get(place, size)
        else:
            assert self._memory is not None
            copy = self._memory[place : place + size]
        if not kind & _PACKED:
            return copy
        assert self._packing is not None
        try:
            return self._packing.unpack(copy)
        except Exception as error:  # each library has its own; a disk may give back what it was not given
            raise OSError(errno.EIO, "an early copy came back changed") from error


def _groups(blocks: Iterable[Range], size: int) -> Iterator[List[Range]]:
    """Gather neighbouring blocks, up to ``size`` bytes at once."""
    group: List[Range] = []
    for block in blocks:
        if group and (group[-1].end != block.start or block.end - group[0].start > size):
            yield group
            group = []
        group.append(block)
    if group:
        yield group
