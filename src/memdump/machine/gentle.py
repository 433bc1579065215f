"""Writing an image without filling the memory that it is taken from.

The system keeps what is written to a file in memory (the page cache).  An image as large as the memory would
so overwrite all that is free, remains of the past included, and push out the files that were read of late,
while they are being acquired.
"""

from typing import Protocol, Union

from memdump.machine.beside import Beside

EVERY = 8 << 20
"""Bytes after which the written part is put on the disk and forgotten."""


class Settling(Protocol):
    """A file that can put what was written so far on the disk and forget it."""

    def write(self, data: Union[bytes, memoryview], /) -> object:
        """Take all of ``data``."""

    def settle(self) -> None:
        """Put it on the disk and forget it."""


class Gentle:
    """Passes bytes on to a file and has it settle again and again, beside the writing."""

    def __init__(self, file: Settling) -> None:
        self._file = file
        self._since = 0
        self._settling = Beside("settle")

    def write(self, data: Union[bytes, memoryview], /) -> None:
        """Write all of ``data``; raises what the file raises, now or since the last time."""
        self._file.write(data)
        self._since += len(data)
        if self._since >= EVERY:
            self._since = 0
            self._settling.wait()
            self._settling.start(self._file.settle)

    def close(self) -> None:
        """Wait until the file has settled, and end the thread; raises what the file raises."""
        self._settling.close()
