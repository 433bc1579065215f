"""``memdump process`` beside gcore, in one run: ``python -m bench.process [GIB ...]``.

A program that ticks every half millisecond, and writes to its memory all the while, tells the longest gap
between two ticks: that is the pause as a process feels it.  Both write to the same disk; by default neither
waits until the data are on it.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.process.targets import Running, begun, built

from bench.processes import run, script, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

PAUSE, WHOLE, READING, MEMORY = 100.0, 4.0, 80.0, 60.0
"""The goals: gcore's pause and time in ours, per cent of plain reading, MB."""
_BLOCK = 4 << 20
_ROUNDS = 3


class Dumped(NamedTuple):
    """One dump."""

    seconds: float
    gap: float
    """Seconds, the longest that the program did not tick."""
    anonymous: int = 0
    pauses: tuple[float, ...] = ()
    reading: float = 0.0
    """Seconds of reading."""
    size: int = 0


def main() -> int:
    """Compare processes of so many GiB."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gib", nargs="*", type=float, default=[2.0])
    parser.add_argument("--folder", help="on the disk that is to be written to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for gib in args.gib:
            _compare(gib, Path(folder))
    return 0


def _compare(gib: float, folder: Path) -> None:
    print(f"\n== a process of {gib:g} GiB, the least of {_ROUNDS} rounds")
    with begun([str(built("tick")), str(int(gib * 1024))]) as target:
        if target.patient_line() != "ready":
            raise SystemExit("the program does not start")
        peers, ours, beforehand, plain, idle, disk = [], [], [], [], [], []
        for _ in range(_ROUNDS):
            idle.append(_idle(target))
            ours.append(_memdump(target, folder))
            beforehand.append(_memdump(target, folder, "--mode", "precopy"))
            plain.append(_plain(target.pid))
            peers.append(_gcore(target, folder))
            disk.append(_disk(ours[-1].size, folder))
    _report(gib, peers, ours, beforehand, max(plain), min(idle), min(disk))


def _report(
    gib: float,
    peers: Sequence[Dumped],
    ours: Sequence[Dumped],
    beforehand: Sequence[Dumped],
    plain: float,
    idle: float,
    disk: float,
) -> None:
    peer = Dumped(min(one.seconds for one in peers), min(one.gap for one in peers))
    best = Dumped(min(one.seconds for one in ours), min(one.gap for one in ours))
    stop = min(max(one.pauses) for one in ours)
    early = Dumped(min(one.seconds for one in beforehand), min(one.gap for one in beforehand))
    rate = max(one.size / one.reading for one in ours)
    print(f"longest gap with neither {idle * 1e3:.1f} ms")
    print(f"gcore    whole {peer.seconds:6.2f} s   longest gap {peer.gap * 1e3:9.1f} ms")
    print(
        f"memdump  whole {best.seconds:6.2f} s   longest gap {best.gap * 1e3:9.1f} ms, stop {stop * 1e3:.1f}"
    )
    stood = min(sum(one.pauses) for one in beforehand)
    print(
        f"precopy  whole {early.seconds:6.2f} s   longest gap {early.gap * 1e3:9.1f} ms, stops"
        f" {stood * 1e3:.1f}"
    )
    print(f"stop per GiB {stop * 1e3 / gib:.1f} ms; reading {rate / 1e9:.2f} GB/s, plain {plain / 1e9:.2f}")
    print(verdict("gcore's pause in ours", peer.gap / best.gap, PAUSE))
    print(verdict("gcore's pause in precopy's", peer.gap / early.gap, PAUSE))
    print(verdict("gcore's time in ours", peer.seconds / best.seconds, WHOLE))
    most = peer.seconds / disk
    print(f"a file of that size, filled from one buffer by two threads: {disk:.2f} s, gcore's {most:.2f} x")
    print(verdict("reading, of plain preadv", 100 * rate / plain, READING, unit="%"))
    most = max(one.anonymous for one in ours) / 1e6
    print(verdict("memdump's own memory", most, MEMORY, at_most=True, unit="MB"))


def _gap(target: Running) -> float:
    return int(target.ask().split()[0]) / 1e9


def _idle(target: Running) -> float:
    target.ask()
    time.sleep(1)
    return _gap(target)


def _gcore(target: Running, folder: Path) -> Dumped:
    out = folder / "peer"
    os.sync()  # what waits for the disk is not this one's
    target.ask()
    start = time.perf_counter()
    subprocess.run(["gcore", "-o", out, str(target.pid)], check=True, capture_output=True)
    seconds = time.perf_counter() - start
    gap = _gap(target)
    Path(f"{out}.{target.pid}").unlink()
    return Dumped(seconds, gap)


def _memdump(target: Running, folder: Path, *options: str) -> Dumped:
    out = folder / "ours.core"
    os.sync()
    target.ask()
    done = run([script("memdump"), "process", str(target.pid), out, *options])
    gap = _gap(target)
    if done.status:
        raise SystemExit(done.errors)
    manifest = json.loads(Path(f"{out}.json").read_text())
    for path in folder.glob("ours.core*"):
        path.unlink()
    return Dumped(
        done.seconds,
        gap,
        done.anonymous,
        tuple(manifest["pauses"]),
        manifest["timings"]["reading"],
        manifest["stream"]["size"],
    )


def _disk(size: int, folder: Path) -> float:
    """Write a file in the quickest way there is without waiting for the disk; gives seconds."""
    out = folder / "plain"
    os.sync()
    content = memoryview(mmap.mmap(-1, _BLOCK))
    content[:] = os.urandom(_BLOCK)
    with out.open("wb", buffering=0) as file, ThreadPoolExecutor(2) as pool:
        start = time.perf_counter()
        places = range(0, size, _BLOCK)
        for _ in pool.map(lambda at: os.pwrite(file.fileno(), content, at), places):
            pass
        seconds = time.perf_counter() - start
    out.unlink()
    return seconds


def _plain(pid: int) -> float:
    """Read the largest mapping as fast as it goes; gives bytes per second."""
    lines = [line.split()[0].split("-") for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    start, end = max(((int(a, 16), int(b, 16)) for a, b in lines if b < "8"), key=lambda one: one[1] - one[0])
    buffer = mmap.mmap(-1, _BLOCK)
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    began = time.perf_counter()
    for address in range(start, end, _BLOCK):
        os.preadv(memory, [buffer], address)
    seconds = time.perf_counter() - began
    os.close(memory)
    return (end - start) / seconds


if __name__ == "__main__":
    sys.exit(main())
