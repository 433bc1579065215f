"""The chain of custody, to which every command adds that opens an image."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memdump.image.base import Image


def record(image: Image, action: str, detail: str | None = None) -> None:
    """Enter what is done with an image into its record, if it has one."""
    record_file(str(image.path), action, detail)


def record_file(path: str, action: str, detail: str | None = None) -> None:
    """The same of the file at ``path``; where it cannot be written it costs a line and nothing else."""
    # Most images have none: then nothing is loaded for it.
    if not os.path.lexists(path.removesuffix(".part") + ".custody.jsonl"):
        return
    from memdump.errors import MemdumpError
    from memdump.machine import custody
    from memdump.report.text import visible

    try:
        custody.append(path, action, detail)
    except MemdumpError as error:
        print(f"memdump: {visible(str(error))}", file=sys.stderr)
