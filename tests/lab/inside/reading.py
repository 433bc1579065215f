"""Read all memory through a source of memdump, and do nothing with it: ``reading.py kcore OUT``.

What it takes, without opening the source, goes to ``OUT.json`` as memdump's own timings do.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path

from memdump.machine import pieces, sources


def main(name: str, out: str) -> None:
    with contextlib.closing(sources.open_source(name, sources.Options()).source) as source:
        buffer = source.buffer(pieces.BLOCK)
        began = time.monotonic()
        for block in pieces.blocks(source.ranges()):
            source.read_into(block.start, buffer[: block.size])
        taken = {"timings": {"reading": time.monotonic() - began}}
    Path(f"{out}.json").write_text(json.dumps(taken))


if __name__ == "__main__":
    main(*sys.argv[1:])
