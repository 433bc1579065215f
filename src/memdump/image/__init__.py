"""How any dump is read: each format is a file, recognised by content."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from memdump.image.base import Image


def open_image(path: str | os.PathLike[str]) -> Image:
    """Open a dump of any known format; raises `memdump.errors.NotADump` or `memdump.errors.NotPermitted`.

    A file that is truncated or damaged is opened with what it has; `Image.defects` says what is wrong with
    it.
    """
    from pathlib import Path

    from memdump.image.content import open_content
    from memdump.image.recognise import recognise

    place = Path(path)
    content = open_content(place)
    try:
        return recognise(place, content)
    except BaseException:
        content.close()
        raise
