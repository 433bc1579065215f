"""How much of an image is at its destination for certain, when that failed.

Between the memory and the destination are the steps that seal an image, with bytes on their way that were
taken and are lost then.  What can be had again from the file ends before them: a manifest claims no more.
"""

import array
import bisect
from typing import Callable, List, Sequence, Union

from memdump.machine import lime, pieces
from memdump.machine.acquire import Taken
from memdump.machine.pipeline import Stream
from memdump.machine.source import Range

_LOOK_AGAIN = 1 << 14
"""Headers after which those are forgotten that have arrived."""


class Course:
    """Passes a LiME stream on, and knows which place in it stands for which address."""

    def __init__(self, stream: Stream, arrived: Callable[[], int]) -> None:
        """Pass it on to ``stream``; ``arrived`` tells how much of it is at the destination for certain."""
        self._stream = stream
        self._arrived = arrived
        self.size = 0
        """Bytes that were passed on."""
        # Where free pages are left out, there may be millions of headers.
        self._places = array.array("Q")
        self._addresses = array.array("Q")

    def write(self, data: Union[bytes, memoryview], /) -> None:
        """Take all of ``data``, be it a header or memory; raises what the stream behind raises."""
        if len(data) == lime.HEADER.size:  # no memory is taken in such small pieces
            self._places.append(self.size)
            self._addresses.append(lime.HEADER.unpack(data)[2])
            if len(self._places) % _LOOK_AGAIN == 0:
                self._forget()
        self._stream.write(data)
        self.size += len(data)

    def _forget(self) -> None:
        """Forget the headers before the last one that has arrived."""
        known = max(bisect.bisect_right(self._places, self._arrived()) - 1, 0)
        del self._places[:known]
        del self._addresses[:known]

    def reached(self, size: int) -> int:
        """Give the address that the first ``size`` bytes of the stream lead up to."""
        index = bisect.bisect_right(self._places, size) - 1
        if index < 0:
            return 0
        return self._addresses[index] + max(size - self._places[index] - lime.HEADER.size, 0)


def cut(taken: Taken, size: int, reached: int, why: str) -> Taken:
    """Tell of the first ``size`` bytes of a stream alone, which lead up to an address, and why it ends there.

    Their digest is not known: that of the whole was being taken.
    """
    return taken._replace(
        size=size,
        sha256=None,
        stopped_by=taken.stopped_by or why,
        # Early copies behind a gap lead up to a high address, and do not fill the gap.
        not_taken=pieces.joined([*taken.not_taken, *_above(taken.ranges, reached)]),
        unreadable=_below(taken.unreadable, reached),
        skipped=taken.skipped.below(reached),
    )


def _above(ranges: Sequence[Range], address: int) -> List[Range]:
    return pieces.without(ranges, [Range(0, address)])


def _below(ranges: Sequence[Range], address: int) -> List[Range]:
    return pieces.within(ranges, [Range(0, address)])
