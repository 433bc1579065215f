"""Early copies of the kernel's pages, kept until the image comes to their addresses.

An analysis follows pointers from one structure of the kernel to the next.  Read in the order of their
addresses, on a machine that goes on running, the two ends of a pointer are read seconds or minutes apart, and
many lead nowhere any more.  So the pages of the kernel, a small part of all memory, are read first, in one
sweep; the image still has its addresses in ascending order, which some readers of LiME insist on.
"""

import array
from typing import (
    Callable,
    Dict,
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
from memdump.machine.source import Range, Source

BUDGET = 40 << 20
"""Bytes of copies that are kept in memory, at most."""
_SHARE = 64
"""The part of a machine's memory that copies may overwrite: they are written over what is to be taken."""
_FLAGS_AT_ONCE = 64 << 20
"""Bytes of memory whose flags are asked for at once; a remote source answers each question after a while."""

Codec = Callable[[Union[bytes, memoryview]], bytes]


class Spill(Protocol):
    """Where copies go that find no room in memory."""

    def put(self, data: bytes) -> int:
        """Keep ``data`` and tell where; raises ``OSError`` where it cannot."""

    def get(self, place: int, size: int) -> bytes:
        """Give it back."""


class Packing(NamedTuple):
    """How copies are made smaller, where a library for it is at hand."""

    pack: Codec
    unpack: Codec


class Stage:
    """Takes the kernel's pages from a source ahead of all others, and puts them in their place later."""

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
        """Bytes for which there was no room; they are read in their turn."""
        self._page_size = page_size
        self._packing = packing
        self._spill = spill
        self._used = 0
        self._budget = min(BUDGET, memory // _SHARE)
        # A machine of a terabyte has half a million blocks: arrays take the room of their numbers only.
        self._blocks = array.array("Q")
        self._sizes = array.array("Q")
        self._places = array.array("Q")
        self._memory: Dict[int, bytes] = {}
        self._next = 0

    def sweep(self, source: Source, blocks: Iterable[Range], stop: Callable[[], object]) -> None:
        """Take the kernel's pages of these blocks, which are those that `overlay` is called with later.

        Ends early where ``stop`` gives something.  Raises ``OSError`` where the source does not tell what its
        pages are.
        """
        buffer = memoryview(bytearray(pieces.BLOCK))
        for group in _groups(blocks, _FLAGS_AT_ONCE):
            if stop():
                return
            chosen = list(self._choose(source, group))
            source.expect([run for _, runs in chosen for run in runs])
            for block, runs in chosen:
                self._take(source, block, runs, buffer)

    def _choose(self, source: Source, group: Sequence[Range]) -> Iterator[Tuple[Range, List[Range]]]:
        """Give the blocks of the group that have kernel pages, and the runs of these."""
        first = group[0].start
        flags = source.page_flags(first, group[-1].end - first)
        for block in group:
            start, end = ((at - first) // self._page_size * 8 for at in (block.start, block.end))
            runs = pageflags.kernel_runs(flags[start:end], block.start, self._page_size)
            if runs:
                yield block, runs

    def _take(self, source: Source, block: Range, runs: Sequence[Range], buffer: memoryview) -> None:
        filled = 0
        kept: List[Range] = []
        for run in runs:
            data = buffer[filled : filled + run.size]
            # What cannot be read now is tried once more in its turn, and counts then.
            if not pieces.read_block(source, run.start, data, self._page_size):
                kept.append(run)
                filled += run.size
        if kept:
            head = array.array("Q", [len(kept), *(number for run in kept for number in run)])
            stored = self._store(block.start, head.tobytes() + buffer[:filled])
            self.taken += filled if stored else 0
            self.left += 0 if stored else filled

    def _store(self, address: int, copy: bytes) -> bool:
        packed = self._packing is not None and self._used > self._budget // 2
        if self._packing is not None and packed:
            copy = self._packing.pack(copy)
        copy = (b"z" if packed else b"-") + copy
        place = len(self._blocks)
        if self._used + len(copy) <= self._budget:
            self._used += len(copy)
            self._memory[address] = copy
        else:
            spilled = self._put_away(copy)
            if spilled is None:
                return False
            place = spilled
        self._blocks.append(address)
        self._sizes.append(len(copy))
        self._places.append(place)
        return True

    def _put_away(self, copy: bytes) -> Optional[int]:
        if self._spill is None:
            return None
        try:
            return self._spill.put(copy)
        except OSError:  # the disk is full: no more of it then, but what is there stays
            return None

    def overlay(self, address: int, data: memoryview) -> List[Range]:
        """Put the early copies into the block that begins at ``address``, and tell where they are.

        Blocks must come in the order of the sweep; each copy is given up when it is used.
        """
        while self._next < len(self._blocks) and self._blocks[self._next] < address:
            self._memory.pop(self._blocks[self._next], None)
            self._next += 1
        if self._next == len(self._blocks) or self._blocks[self._next] != address:
            return []
        copy = memoryview(self._get(self._next))
        self._next += 1
        (count,) = array.array("Q", copy[:8].tobytes())
        numbers = array.array("Q", copy[8 : 8 + 16 * count].tobytes())
        done = 8 + 16 * count
        runs = [Range(*pair) for pair in zip(numbers[::2], numbers[1::2])]  # noqa: B905
        for run in runs:
            inside = run.start - address
            data[inside : inside + run.size] = copy[done : done + run.size]
            done += run.size
        return runs

    def _get(self, index: int) -> bytes:
        copy = self._memory.pop(self._blocks[index], None)
        if copy is None:
            assert self._spill is not None
            copy = self._spill.get(self._places[index], self._sizes[index])
        else:
            self._used -= len(copy)
        if copy[:1] == b"-":
            return copy[1:]
        assert self._packing is not None
        return self._packing.unpack(copy[1:])


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
