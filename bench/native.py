"""``memdump acquire`` beside AVML at this machine's own speed: ``python -m bench.native [IMAGE]``.

In an emulated guest a digest takes ten times as long as a copy, and on a processor three times.  So here
both run on this machine, and see the memory of an image in place of its own: in namespaces of its own each
finds that memory under ``/proc/kcore``, laid out as the kernel does it, and its ranges under ``/proc/iomem``.
One is a user namespace, in which nobody could open the real ones.

All take turns, and the best round counts.  The clock stops when the image is on the disk: memdump ends then,
after AVML the file is put there.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.lab import cache, guests, takers

from bench.processes import script, verdict
from memdump.image import open_image
from memdump.image.age_keys import X25519Recipient, x25519_public

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdump.machine.source import Range

DIRECT_MAP = 0xFFFF888000000000
PAGE = 4096
MB = 1e6
HIDE = 'mount --rbind /proc "$1/real" && mount --bind "$1/proc" /proc && shift && exec "$@"'
"""What runs in the namespace before the command."""
COPIES = 4
"""A guest of the lab is small; its memory is put there so many times."""


class Taken(NamedTuple):
    """What a run took."""

    durable: float
    """Seconds until the image was on the disk."""
    seconds: float
    """Seconds until the program ended."""
    processor: float
    size: int


def main() -> int:
    """Measure and print; 1 where something is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.native", description=__doc__)
    parser.add_argument("image", type=Path, nargs="?", help="(default: a guest of the lab)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--copies", type=int, default=COPIES, help="of its memory (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to write to")
    args = parser.parse_args()
    try:
        image = args.image or guests.get(guests.GUESTS["6.12"]).lime_image
        with tempfile.TemporaryDirectory(prefix="memdump-bench-", dir=args.folder) as folder:
            measure(image, args.rounds, args.copies, Path(folder))
    except cache.NoLab as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def measure(image: Path, rounds: int, copies: int, folder: Path) -> None:
    """Run all in turns, and print what each took at best."""
    memory = _lay_out(image, copies, folder)
    best: dict[str, Taken] = {}
    commands = _commands(folder)
    for _ in range(rounds):
        for name, command in commands.items():
            taken = _take(command, folder)
            if name not in best or taken.durable < best[name].durable:
                best[name] = taken
    print(f"{memory / MB:,.0f} MB of memory, best of {rounds} rounds")
    for name, taken in best.items():
        times = f"{taken.durable:6.2f} s ({taken.seconds:6.2f} to its end) {taken.processor:6.2f} s CPU"
        print(f"{name:<22} {times} {taken.size / MB:8,.0f} MB {memory / taken.durable / MB:8,.0f} MB/s")
    plain, packed = best["memdump .lime"], best["memdump .lime.zst"]
    print(verdict("speed of avml", best["avml"].durable / plain.durable, 1))
    print(verdict("speed of avml --compress", best["avml --compress"].durable / packed.durable, 1))
    print(verdict("size beside avml --compress", packed.size / best["avml --compress"].size, 1, at_most=True))
    sealed = best["memdump .lime.zst.age"]
    print(f"  encrypted too: {best['avml --compress'].durable / sealed.durable:.2f} x the speed")


def _commands(folder: Path) -> dict[str, list[str]]:
    recipient = str(X25519Recipient(x25519_public(bytes(range(32)))))
    avml, out = [str(takers.avml()), "acquire", "--source", "/proc/kcore"], str(folder / "image")
    # The page flags are those of this machine, so no order can be made of them.  A busy machine would make
    # memdump wait for others, and AVML not, if memdump were as polite as it is by itself.
    memdump = [script("memdump"), "acquire", "--source", "kcore", "--order", "ascending"]
    memdump += ["--priority", "normal"]
    return {
        "avml": [*avml, out],
        "memdump .lime": [*memdump, "--no-encrypt", f"{out}.lime"],
        "avml --compress": [*avml, "--compress", out],
        "memdump .lime.zst": [*memdump, "--no-encrypt", f"{out}.lime.zst"],
        "memdump .lime.zst.age": [*memdump, "--recipient", recipient, f"{out}.lime.zst.age"],
    }


def _take(command: Sequence[str], folder: Path) -> Taken:
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", HIDE, "sh"]
    command = [*inside, str(folder), *command]
    os.sync()
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise cache.NoLab(f"{' '.join(command)}: status {process.returncode}: {said}")
    (image,) = (found for found in folder.glob("image*") if not found.name.endswith((".json", ".jsonl")))
    with image.open("rb") as file:
        os.fsync(file.fileno())
    durable = time.perf_counter() - began
    size = image.stat().st_size
    for left in folder.glob("image*"):
        left.unlink()
    return Taken(durable, seconds, used.ru_utime + used.ru_stime, size)


def _lay_out(image: Path, copies: int, folder: Path) -> int:
    """Make a ``proc`` of that memory, copies of it one behind another; all else in it is the real one's."""
    proc, real = folder / "proc", folder / "real"
    proc.mkdir()
    real.mkdir()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() and entry.name not in ("kcore", "iomem"):
            (proc / entry.name).symlink_to(real / entry.name)
    with open_image(image) as opened:
        step = -(-opened.ranges[-1].end // (1 << 30)) << 30
        ranges = [
            found._replace(start=found.start + number * step)
            for number in range(copies)
            for found in opened.ranges
        ]
        (proc / "iomem").write_text(
            "".join(f"{found.start:08x}-{found.end - 1:08x} : System RAM\n" for found in ranges)
        )
        with (proc / "kcore").open("wb") as kcore:
            kcore.write(_headers(ranges))
            for _ in range(copies):
                for found in opened.ranges:
                    kcore.write(opened.read(found.start, found.size))
    return sum(found.size for found in ranges)


def _headers(ranges: Sequence[Range]) -> bytes:
    """The headers of an ELF core file of this memory, a page of them."""
    elf = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, len(ranges), 0, 0, 0
    )  # fmt: skip
    offset = -(-(64 + 56 * len(ranges)) // PAGE) * PAGE
    first = offset
    for found in ranges:
        elf += struct.pack(
            "<IIQQQQQQ", 1, 7, offset, DIRECT_MAP + found.start, found.start, found.size, found.size, PAGE
        )
        offset += found.size
    return elf.ljust(first, b"\0")


if __name__ == "__main__":
    sys.exit(main())
