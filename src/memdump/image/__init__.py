"""How any dump is read: each format is a file, recognised by content."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from memdump.image.base import Image


def open_image(path: str | os.PathLike[str]) -> Image:
    """Open a dump of any known format; raises `memdump.errors.NotADump` or `memdump.errors.NotPermitted`."""
    raise NotImplementedError
