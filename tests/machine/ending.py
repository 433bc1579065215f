"""Run in a guest: end an acquisition by a signal once it has come so far, and tell what it left.

``python3 ending.py FOLDER SIGNAL PHASE BYTES START END COMMAND...`` where ``COMMAND`` writes
``FOLDER/m.lime``; of the memory from ``START`` to ``END`` each page is told that is in the image.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

PAGE = 4096
IMAGE = re.compile(r"m\.lime(\.\d{3})?(\.part)?")
HEADER = struct.Struct("<IIQQ8s")
"""Of a range, as LiME's documentation has it."""
ATTACHMENTS, RESERVE, SPILL = range(3)
"""The files without a name, in the order in which memdump opens them."""


def images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if IMAGE.fullmatch(path.name))


def sizes(folder: Path, pid: int) -> dict[str, int]:
    """How much there is of the image, and of the early copies that found no room in memory."""
    nameless = []
    for opened in sorted(Path(f"/proc/{pid}/fd").iterdir(), key=lambda path: int(path.name)):
        with contextlib.suppress(FileNotFoundError):  # it may be closed by now
            name = str(opened.readlink())
            if name.startswith(f"{folder}/") and name.endswith(" (deleted)"):
                nameless.append(opened.stat().st_size)
    spilled = nameless[SPILL] if len(nameless) > SPILL else 0
    return {"image": sum(path.stat().st_size for path in images(folder)), "spill": spilled}


def reached(folder: Path, pid: int, phase: str, size: int) -> bool:
    if phase == "sweep":
        return bool(images(folder))
    return sizes(folder, pid)[phase] > size


def main(folder: Path, number: int, phase: str, size: int, span: range, command: list[str]) -> dict[str, Any]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and not reached(folder, process.pid, phase, size):
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    seen = sizes(folder, process.pid)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    said = process.communicate()[1].decode()
    return {"status": process.returncode, "said": said, "seen": seen, **left(folder, span)}


def left(folder: Path, span: range) -> dict[str, Any]:
    names = sorted(path.name for path in folder.iterdir())
    if "m.lime.json" not in names:
        return {"names": names}
    data = b"".join(path.read_bytes() for path in images(folder))
    size, pages = walk(data, span)
    return {"names": names, "sha256": hashlib.sha256(data).hexdigest(), "size": size, "pages": pages}


def walk(data: bytes, span: range) -> tuple[int, dict[int, int]]:
    """How much memory is in an image, and the CRC-32 of each page of ``span`` in it, by its address."""
    size, found, place = 0, {}, 0
    while place < len(data):
        magic, version, first, last, _ = HEADER.unpack_from(data, place)
        assert (magic, version) == (0x4C694D45, 1), hex(place)
        size += last + 1 - first
        for address in range(max(first, span.start), min(last + 1, span.stop), PAGE):
            at = place + HEADER.size + address - first
            found[address] = zlib.crc32(data[at : at + PAGE])
        place += HEADER.size + last + 1 - first
    assert place == len(data), (place, len(data))
    return size, found


if __name__ == "__main__":
    where, what, when, least, start, end, *words = sys.argv[1:]
    told = main(Path(where), int(what), when, int(least), range(int(start), int(end)), words)
    print(json.dumps(told))
