"""How near the write path comes to its slowest step: ``python -m bench.write_path [IMAGE]``.

The path is that of ``memdump acquire OUT.lime.zst.age``: digest, compress, encrypt, digest again, write to a
disk and make it durable.  It is fed with the memory of an image, all of it in memory, so that no source holds
it up.  Beside it each step is measured alone, on all cores, with the library that does it and nothing of
memdump around; and so that none is measured on an idle machine and another on a busy one, all take turns.

A digest is one stream: the SHA-256 of a whole is not made of its parts', so more cores do not help it.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from tests.lab import guests

from bench.processes import verdict
from memdump.image import open_image
from memdump.image.age_chunks import CHUNK
from memdump.image.age_keys import X25519Recipient, x25519_public
from memdump.image.zstd_seekable import FRAME, LEVEL
from memdump.machine.acquire import Plan, acquire
from memdump.machine.destination import Options, open_destination
from memdump.machine.lime import header
from memdump.machine.pieces import BLOCK
from memdump.machine.pipeline import Digest
from memdump.machine.source import Range, Source
from memdump.seal import Sealing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GOAL = 80.0
"""Per cent of the rate of the slowest step alone."""
CORES = len(os.sched_getaffinity(0))
MB = 1e6


class Remembered(Source):
    """The memory of an image, read before the clock runs."""

    name = "remembered"

    def __init__(self, image: Path) -> None:
        with open_image(image) as opened:
            self._parts = [(found, opened.read(found.start, found.size)) for found in opened.ranges]

    def ranges(self) -> Sequence[Range]:
        """Give the ranges of the image."""
        return [found for found, _ in self._parts]

    def read_into(self, address: int, buffer: memoryview) -> None:
        """Copy: what any source does at least."""
        for found, data in self._parts:
            if found.start <= address < found.end:
                start = address - found.start
                buffer[:] = memoryview(data)[start : start + len(buffer)]

    def page_flags(self, address: int, size: int) -> bytes:
        """Refuse: those of this machine say nothing of that one."""
        raise OSError(errno.ENOTSUP, f"no page flags of {size} bytes at {address:#x} in an image")

    def close(self) -> None:
        """Do nothing."""

    def stream(self) -> list[memoryview]:
        """The LiME stream, in blocks."""
        blocks = []
        for found, data in self._parts:
            blocks.append(memoryview(header(found)))
            blocks += _cut(data, BLOCK)
        return blocks


class Step(NamedTuple):
    """What a step took, alone."""

    size: int
    """Bytes that go into it."""
    seconds: float
    processor: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.write_path", description=__doc__)
    parser.add_argument("image", type=Path, nargs="?", help="(default: a guest of the lab)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to write to")
    args = parser.parse_args()
    measure(args.image or guests.get(guests.GUESTS["6.12"]).lime_image, args.rounds, args.folder)


def measure(image: Path, rounds: int, folder: Path) -> None:
    """Measure the steps and the path in turns; the best round of each counts."""
    source = Remembered(image)
    runs: dict[str, list[Step]] = {}
    for _ in range(rounds):
        for name, step in _steps(source, folder).items():
            runs.setdefault(name, []).append(step)
        runs.setdefault("the path", []).append(_path(source, folder))
    best = {name: min(taken, key=lambda step: step.seconds) for name, taken in runs.items()}
    path = best.pop("the path")
    print(
        f"{path.size / MB:,.0f} MB of memory on {CORES} cores; MB/s of memory, and of what the step is given"
    )
    for name, step in [*best.items(), ("the path", path)]:
        rates = f"{path.size / step.seconds / MB:8,.0f} {step.size / step.seconds / MB:8,.0f} MB/s"
        print(f"{name:<40} {step.seconds:6.2f} s {step.processor:6.2f} s CPU {rates}")
    slowest = max(best, key=lambda name: best[name].seconds)
    # All steps at once also need the processor time of all of them, which few cores do not have.
    cores = sum(step.processor for step in best.values()) / CORES
    possible = max(best[slowest].seconds, cores)
    print(verdict(f"beside {slowest} alone", 100 * best[slowest].seconds / path.seconds, GOAL, unit="%"))
    what = f"beside all steps' processor time on {CORES} cores" if cores == possible else "the same"
    print(verdict(what, 100 * possible / path.seconds, GOAL, unit="%"))


def _path(source: Remembered, folder: Path) -> Step:
    """The whole path, as the command takes it."""
    size = sum(found.size for found in source.ranges())
    sealing = Sealing(compress=True, recipients=[X25519Recipient(x25519_public(os.urandom(32)))])
    with tempfile.TemporaryDirectory(prefix="memdump-bench-", dir=folder) as scratch:
        options = Options(name="m", layers=sealing.layers, size=size)
        with _Clock(size) as clock, open_destination(f"{scratch}/m{sealing.suffix}", options) as target:
            digest = Digest(target)
            sealed = sealing.upon(digest)
            taken = acquire(source, sealed, Plan(), lambda _: None, lambda: None)
            sealed.close(lambda: [b"{}"])
            target.commit()
            digest.close()
    if not taken.complete:
        raise RuntimeError(str(taken.stopped_by))
    return clock.step


def _steps(source: Remembered, folder: Path) -> dict[str, Step]:
    stream = source.stream()
    whole = sum(map(len, stream))
    steps = {}
    with _Clock(whole) as clock:
        _digest(stream)
    steps["digest of the memory (one core)"] = clock.step
    with ThreadPoolExecutor(CORES) as pool:
        with _Clock(whole) as clock:
            packed = b"".join(pool.map(_compressor(), stream))
        steps[f"compress ({CORES} cores)"] = clock.step
        blocks = _cut(packed, BLOCK)
        with _Clock(len(packed)) as clock:
            sealed = list(pool.map(_encryptor(), blocks))
        steps[f"encrypt ({CORES} cores)"] = clock.step
    size = sum(map(len, sealed))
    with _Clock(size) as clock:
        _digest(sealed)
    steps["digest of the file (one core)"] = clock.step
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file, _Clock(size) as clock:
        for block in _cut(b"".join(sealed), BLOCK):
            file.write(block)
        os.fsync(file.fileno())
    steps["write and make durable"] = clock.step
    return steps


class _Clock:
    """Takes the time of its block."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __enter__(self) -> _Clock:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        began, used = self._began
        self.step = Step(self._size, time.perf_counter() - began, time.process_time() - used)


def _digest(blocks: Sequence[bytes | memoryview]) -> None:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)


def _compressor() -> Callable[[memoryview], bytes]:
    """Compresses a block, which is so large that handing it to a thread takes no time beside that."""
    of_thread = threading.local()

    def compress(block: memoryview) -> bytes:
        if not hasattr(of_thread, "compress"):
            of_thread.compress = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress
        return b"".join([of_thread.compress(frame) for frame in _cut(block, FRAME)])

    return compress


def _encryptor() -> Callable[[memoryview], bytes]:
    cipher = ChaCha20Poly1305(ChaCha20Poly1305.generate_key())
    return lambda block: b"".join([cipher.encrypt(bytes(12), chunk, None) for chunk in _cut(block, CHUNK)])


def _cut(data: bytes | memoryview, size: int) -> list[memoryview]:
    view = memoryview(data)
    return [view[start : start + size] for start in range(0, len(view), size)]


if __name__ == "__main__":
    main()
