"""Read all memory through a source of memdump, and do nothing with it: ``reading.py kcore``."""

from __future__ import annotations

import contextlib
import sys

from memdump.machine import pieces, sources


def main(name: str) -> None:
    with contextlib.closing(sources.open_source(name, sources.Options()).source) as source:
        buffer = source.buffer(pieces.BLOCK)
        for block in pieces.blocks(source.ranges()):
            source.read_into(block.start, buffer[: block.size])


if __name__ == "__main__":
    main(sys.argv[1])
