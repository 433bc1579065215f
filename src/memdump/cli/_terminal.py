"""What the terminal at the other end can show."""

from __future__ import annotations

import os
from typing import TextIO


def room(stream: TextIO) -> int | None:
    """The columns that a table may take; none is set in a pipe or a file, unless ``COLUMNS`` is."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except OSError:
        return None


def colour(stream: TextIO) -> bool:
    """Whether colours are shown, and wanted (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
