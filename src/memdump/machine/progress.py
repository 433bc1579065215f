"""A line on a terminal that shows how far the work is."""

import os
import sys
import time
from typing import Optional, TextIO

_WIDTH = 30
_EVERY = 0.1


class Progress:
    """Draws on standard error, and only where that is a terminal."""

    def __init__(self, total: int, file: Optional[TextIO] = None) -> None:
        """Expect ``total`` bytes."""
        self.total = total
        """Bytes that are expected, which may be known better later."""
        self._file = file = file or sys.stderr
        self._shown = file.isatty() and os.environ.get("TERM") != "dumb"
        self._start = time.monotonic()
        self._next = self._start

    def __call__(self, done: int) -> None:
        """Show that so many bytes are done; draws at most ten times a second."""
        now = time.monotonic()
        if self._shown and now >= self._next:
            self._next = now + _EVERY
            self._file.write(f"\r{self.line(done, now - self._start)}\x1b[K")
            self._file.flush()

    def line(self, done: int, seconds: float) -> str:
        """Give the line after ``seconds``: bar, amount, rate and the time that is left."""
        share = min(done / max(self.total, 1), 1.0)
        rate = done / seconds if seconds > 0 else 0.0
        left = f"{duration((self.total - done) / rate)} left" if rate else ""
        bar = "#" * int(share * _WIDTH)
        amount = f"{done >> 20:,} of {self.total >> 20:,} MiB"
        return f"[{bar:.<{_WIDTH}}] {share:4.0%}  {amount}  {rate / (1 << 20):,.0f} MiB/s  {left}"

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._file.write("\r\x1b[K")
            self._file.flush()


def duration(seconds: float) -> str:
    """Spell a time as ``1:02:03`` or ``2:03``."""
    minutes, second = divmod(max(int(seconds + 0.5), 0), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
