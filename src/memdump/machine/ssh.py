"""Physical memory of another machine, over the system's ssh.

The acquiring side of memdump is sent along and run there by the host's own Python, from memory: nothing is
written to the host's disks.  Who the host is, and who may log in, is ssh's own affair.
"""

import array
import sys
import threading
import time
from datetime import datetime, timedelta
from typing import Optional, Sequence

from memdump.errors import MemdumpError
from memdump.machine import bundle, ssh_wire
from memdump.machine.host import Host, Instant
from memdump.machine.source import Range, Source
from memdump.machine.ssh_questions import Questions
from memdump.machine.ssh_session import Session, parcel

_NOISE = 1 << 16
"""Bytes that a login shell may print before the far end speaks."""
START = "from memdump.machine import serve\nserve.main()"
"""What is run there, once its modules are."""


_UTC = "%Y-%m-%dT%H:%M:%S.%fZ"


def _later(instant: Instant, nanoseconds: int) -> Instant:
    utc = datetime.strptime(instant.utc, _UTC) + timedelta(microseconds=nanoseconds // 1000)
    return Instant(utc.strftime(_UTC), instant.boot_time_ns + nanoseconds)


class SshSource(Source):
    """Reads the memory of another machine through the best source there."""

    def __init__(self, destination: str, sudo: Optional[bool] = None, options: Sequence[str] = ()) -> None:
        """Log in at ``destination`` (``[USER@]HOST`` or ``//[USER@]HOST[:PORT]``) and send the far end.

        ``options`` are for ssh: ``Port=2222``, as behind its ``-o``, or whole ones such as ``-Fconfig``.
        ``sudo`` is used where the user is not root, unless it is said whether to.  Raises `MemdumpError`
        with ssh's own words where that fails, and what the source there raises.
        """
        self._lock = threading.Lock()
        address = f"ssh:{destination}" if destination.startswith("//") else destination
        self._session = Session(address, options, sudo)
        self._questions = Questions(self._session)
        try:
            self._session.send(parcel(bundle.far_end(), START))
            self._introduction()
        except BaseException:
            self._session.close()
            raise

    def _introduction(self) -> None:
        """Hear who is there, behind whatever else was printed first."""
        heard = bytearray()
        while not heard.endswith(ssh_wire.GREETING):
            heard += self._session.receive(1)
            if len(heard) > _NOISE:
                raise MemdumpError(
                    f"{self._session.destination}: its login shell prints too much to be heard"
                )
        told = self._questions.hear()
        self._host = told.host("host")
        self._ranges = told.ranges("ranges")
        self._clocks = told.instant("now"), time.monotonic_ns()
        self._swapped = told.text("byte_order") != sys.byteorder
        self.page_size = self._host.page_size
        self.vmcoreinfo = told.optional_text("vmcoreinfo")
        self.evidence = told.optional_text("evidence")
        self.name = f"{told.text('source')} over ssh"
        self.refused = [(tried.text("source"), tried.text("reason")) for tried in told.all_fields("refused")]
        """Sources that did not serve there, and why."""
        if not self.page_size or any(
            found.start % self.page_size or found.size % self.page_size for found in self._ranges
        ):
            raise told.wrong("ranges")

    def ranges(self) -> Sequence[Range]:
        """Give the ranges of its system RAM."""
        return self._ranges

    def ranges_now(self) -> Sequence[Range]:
        """Ask the far end anew."""
        with self._lock:
            try:
                return self._questions.ranges()
            except (MemdumpError, OSError):
                return self._ranges

    def offline(self) -> Sequence[Range]:
        """Ask the far end."""
        with self._lock:
            try:
                return self._questions.offline()
            except (MemdumpError, OSError):
                return []

    def expect(self, ranges: Sequence[Range]) -> None:
        """Have the first of these sent before they are asked for."""
        with self._lock:
            self._questions.expect(ranges)

    def read_into(self, address: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from physical ``address``; raises ``OSError`` as the source there does."""
        with self._lock:
            buffer[:] = self._questions.read(Range(address, len(buffer)))

    def page_flags(self, address: int, size: int) -> bytes:
        """Give the flags of its pages, in the byte order of this machine."""
        with self._lock:
            flags = self._questions.flags(Range(address, size), size // self.page_size * 8)
        if not self._swapped:
            return flags
        swapped = array.array("Q", flags)
        swapped.byteswap()
        return swapped.tobytes()

    def host(self) -> Host:
        """Tell which machine it is."""
        return self._host

    def now(self) -> Instant:
        """Read its clocks; once it is out of reach, they are taken to have gone on since they last were."""
        with self._lock:
            try:
                self._clocks = self._questions.now().instant("now"), time.monotonic_ns()
            except MemdumpError:
                return _later(self._clocks[0], time.monotonic_ns() - self._clocks[1])
            return self._clocks[0]

    def broken(self) -> int:
        """Give the bytes of its memory that have a hardware error; raises `MemdumpError`."""
        with self._lock:
            return self._questions.now().count("broken")

    def close(self) -> None:
        """End the connection, and with it the far end."""
        self._session.close()
