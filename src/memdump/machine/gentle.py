"""Writing an image without filling the memory that it is taken from.

The system keeps what is written to a file in memory (the page cache).  An image as large as the memory would
so overwrite all that is free, remains of the past included, and push out the files that were read of late,
while they are being acquired.
"""

from typing import Callable, List, Optional, Protocol, Sequence, Union

from memdump.machine.beside import Beside
from memdump.machine.output import NoRoom

EVERY = 8 << 20
"""Bytes after which the written part is put on the disk and forgotten."""


class Settling(Protocol):
    """A file that can put what was written so far on the disk and forget it."""

    def write(self, data: Union[bytes, memoryview], /) -> object:
        """Take all of ``data``."""

    def settle(self) -> None:
        """Put it on the disk and forget it; raises `NoRoom` where the disk turns out to be full."""


class Gentle:
    """Passes bytes on to a file and has it settle again and again, beside the writing.

    Some file systems, those over a network above all, take bytes and notice later that there is no room for
    them; the system then forgets them.  With ``repair``, a copy is kept of what has not settled yet, and
    ``repair`` gets these last bytes of the file to write them once more, where more room can be made.
    """

    def __init__(self, file: Settling, repair: Optional[Callable[[Sequence[bytes]], None]] = None) -> None:
        self._file = file
        self._since = 0
        self._repair = repair
        self._leaving: List[bytes] = []
        self._recent: List[bytes] = []
        self._settling = Beside("settle")
        self._closed = False

    def write(self, data: Union[bytes, memoryview], /) -> None:
        """Write all of ``data``; raises what the file raises, now or since the last time.

        Where something failed since, nothing of ``data`` reaches the file any more.
        """
        due = self._since + len(data) >= EVERY
        if due:
            self._settled()
        self._file.write(data)
        if self._repair:
            self._recent.append(bytes(data))
        self._since += len(data)
        if due:
            self._since = 0
            self._settling.start(self._file.settle)

    def _settled(self) -> None:
        try:
            self._settling.wait()
        except NoRoom:
            if not self._repair:
                raise
            # Which of them were lost is not known, nor whether newer ones were not.
            self._repair(self._leaving + self._recent)
            self._recent = []
        self._leaving, self._recent = self._recent, []

    def close(self) -> None:
        """Wait until the file has settled, and end the thread; raises what the file raises, once."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._repair:
                self._settled()
                self._settling.start(self._file.settle)
            self._settled()
        finally:
            self._settling.close()
