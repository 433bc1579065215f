"""What an acquisition would take, from a small sample of the memory sent through all of its steps."""

import time
from typing import Callable, List, NamedTuple, Sequence, Tuple, Union

from memdump.machine import pageflags, pieces
from memdump.machine.acquire import Plan, acquire, image_size
from memdump.machine.pipeline import Stream
from memdump.machine.source import Range, Source

SAMPLES = 48
"""Blocks that are looked at, at even distances."""


Finish = Callable[[], None]
"""Ends the steps before a stream."""


class Estimate(NamedTuple):
    """What is to be expected; bytes and seconds."""

    memory: int
    """Memory to take."""
    image: int
    """Size of the image as it is written."""
    largest: int
    """The size that it cannot exceed, but for a thousandth."""
    seconds: float
    """Time for reading, hashing, compressing and encrypting; a slow destination takes longer."""
    kernel: int
    """The kernel's own pages, where the source tells which they are."""
    free: int
    """Pages that nobody uses, likewise."""


class _Counter:
    """Forgets what it is given, but for the size."""

    size = 0

    def write(self, data: Union[bytes, memoryview], /) -> None:
        self.size += len(data)


class _Sample(Source):
    """Some blocks of another source; it is neither begun nor ended, so nothing is paused."""

    def __init__(self, source: Source, ranges: Sequence[Range]) -> None:
        self.name = source.name
        self.page_size = source.page_size
        self._source = source
        self._ranges = ranges

    def ranges(self) -> Sequence[Range]:
        return self._ranges

    def read_into(self, address: int, buffer: memoryview) -> None:
        self._source.read_into(address, buffer)

    def expect(self, ranges: Sequence[Range]) -> None:
        self._source.expect(ranges)

    def close(self) -> None:
        pass


def estimate(source: Source, seal: Callable[[Stream], Tuple[Stream, Finish]]) -> Estimate:
    """Send a sample through the same steps; ``seal`` puts them before a stream and gives what ends them."""
    ranges = list(source.ranges())
    memory = sum(found.size for found in ranges)
    chosen = _spread(ranges)
    sampled = sum(found.size for found in chosen)
    counter = _Counter()
    start = time.monotonic()
    stream, finish = seal(counter)
    acquire(_Sample(source, chosen), stream, Plan(), lambda _done: None, lambda: None)
    finish()
    seconds = time.monotonic() - start
    kernel, free = _shares(source, chosen)
    scale = memory / sampled
    return Estimate(
        memory=memory,
        image=int(counter.size * scale),
        largest=image_size(ranges),
        seconds=seconds * scale,
        kernel=int(kernel * scale),
        free=int(free * scale),
    )


def _spread(ranges: Sequence[Range]) -> List[Range]:
    blocks = sum(-(-found.size // pieces.BLOCK) for found in ranges)
    step = max(blocks // SAMPLES, 1)
    return [block for index, block in enumerate(pieces.blocks(ranges)) if index % step == step // 2][:SAMPLES]


def _shares(source: Source, blocks: Sequence[Range]) -> Tuple[int, int]:
    kernel = free = 0
    try:
        for block in blocks:
            flags = source.page_flags(block.start, block.size)
            for run in pageflags.kernel_runs(flags, block.start, source.page_size):
                kernel += run.size
            for run in pageflags.free_runs(flags, block.start, source.page_size):
                free += run.size
    except OSError:
        return 0, 0
    return kernel, free
