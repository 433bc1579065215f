"""An HTTP(S) server that wants to know beforehand how long what it takes is going to be.

Object stores take a PUT to a signed address only with its length, and what is compressed has none before its
end.  So the image is written to a folder first and sent from there.  It stays there if that fails: it is
whole by then, and memory cannot be had a second time.
"""

import re
import shlex
from pathlib import Path
from typing import Callable, Optional, Union

from memdump.errors import MemdumpError
from memdump.machine import http_put
from memdump.machine.destination import Destination, Options, shown
from memdump.machine.file_destination import FileDestination
from memdump.machine.http_put import HttpDestination
from memdump.machine.output import Content

_STEP = 1 << 20
_NAME = re.compile(r"[\w+=@-][\w.+=@-]{0,199}")
"""A name in an address that may be one of a file; any other is replaced."""


def path_in(folder: Path, url: str, options: Options) -> Path:
    """Name the file in which an image waits; raises `UsageError` where ``url`` is no address."""
    name = http_put.file_name(http_put.parse(url, shown(url)))
    return folder / (name if _NAME.fullmatch(name) else options.name)


class SpooledPut(Destination):
    """A file that is sent by one PUT once it is whole, and removed then."""

    def __init__(self, url: str, options: Options, folder: Path) -> None:
        """Ask to PUT at ``url`` and create the file in ``folder``; raises as both do."""
        self._url = url
        self._options = options
        # The server gets to see the request and no byte of the image, so that it refuses now what it does.
        asked = HttpDestination(url, options._replace(size=1, exact=True))
        asked.abandon()
        self.place = asked.place
        self._path = path_in(folder, url, options)
        self.file = self._path.name
        self._file = FileDestination(self._path, options)
        self.partial = self._file.partial

    @property
    def trouble(self) -> Optional[str]:
        """Set when the disk of the folder is full."""
        return self._file.trouble

    def write(self, data: Union[bytes, memoryview], /) -> None:
        """Write all of ``data`` to the file."""
        self._file.write(data)

    def commit(self) -> None:
        """Give the file its name."""
        self._file.commit()

    def deliver(self, progress: Callable[[int], None], stop: Callable[[], Optional[str]]) -> None:
        """Send the file and remove it; it stays where that fails."""
        size = self._path.stat().st_size
        try:
            with HttpDestination(self._url, self._options._replace(size=size, exact=True)) as place:
                self._send(place, progress, stop)
                place.commit()
        except (MemdumpError, OSError) as error:
            again = f"curl -T {shlex.quote(str(self._path))} ADDRESS"
            raise MemdumpError(
                f"{error}; the image stands whole in {self._path}, and '{again}' sends it once more"
            ) from None
        self._path.unlink()

    def _send(
        self, place: Destination, progress: Callable[[int], None], stop: Callable[[], Optional[str]]
    ) -> None:
        done = 0
        with self._path.open("rb", buffering=0) as file:
            while True:
                data = file.read(_STEP)
                if not data:
                    return
                reason = stop()
                if reason:
                    raise MemdumpError(f"{self.place}: {reason} after {done:,} bytes")
                place.write(data)
                done += len(data)
                progress(done)

    def abandon(self) -> None:
        """Leave the file as the part that it is."""
        self._file.abandon()

    def attach(self, suffix: str, data: Content) -> None:
        """Write it beside the file, where it stays: the address takes the image alone."""
        self._file.attach(suffix, data)

    def close(self) -> None:
        """Let go of the room for attachments."""
        self._file.close()
