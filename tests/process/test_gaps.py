"""Programs of many kinds that are taken again and again: how long each stands, and that nothing breaks."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.process import targets
from tests.process.cores import Core
from tests.process.targets import begun, built, needs_gcc

if TYPE_CHECKING:
    from tests.process.targets import Running

pytestmark = needs_gcc
ALONE = 1.0
"""Seconds that it runs undisturbed first."""
DUMPS = 6
TOKENS = 8
FACTOR = 2654435761


def ask(target: Running) -> list[int]:
    answer = target.ask()
    assert answer.replace(" ", "").isdigit(), answer
    return [int(word) for word in answer.split()]


def take(target: Running, out: Path) -> None:
    """Take it in fork mode, without what stands in files."""
    words = [sys.executable, "-m", "memdump", "process", str(target.pid), str(out), "--skip", "file"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "fork mode" in done.stderr
    assert "zombie" not in done.stderr


def is_left_alone(target: Running) -> None:
    assert target.process.poll() is None
    assert target.children() == ""
    assert target.status("TracerPid") == "0"


def told(name: str, seconds: tuple[float, float], counts: tuple[int, int], gaps: tuple[int, int]) -> str:
    (alone, taken), (before, after), (short, long) = seconds, counts, gaps
    return (
        f"\n{name}: {before / alone:,.0f} per second alone, longest gap {short / 1e6:.2f} ms;"
        f" {after / taken:,.0f} per second while it is taken {DUMPS} times, longest gap {long / 1e6:.2f} ms"
    )


def test_a_program_that_ticks(tmp_path: Path) -> None:
    """Every half millisecond; it says so if a sleep is cut short."""
    with targets.running("tick", 64) as target:
        time.sleep(ALONE)
        short, before = ask(target)
        start = time.monotonic()
        for number in range(DUMPS):
            take(target, tmp_path / f"{number}")
        seconds = time.monotonic() - start
        long, after = ask(target)
        assert after
        is_left_alone(target)
    print(told("ticks", (ALONE, seconds), (before, after), (short, long)))


@pytest.mark.parametrize(
    ("kind", "threads"), [("posix", 16), ("go", 120), ("python", 8)], ids=["C", "like-Go", "CPython"]
)
def test_programs_with_threads(tmp_path: Path, kind: str, threads: int) -> None:
    """None of the tokens that the threads hand on is lost or wrong, in the program and in each core."""
    script = Path(targets.__file__).with_name("hops.py")
    command = [str(built("hops")), kind, str(threads)]
    with begun([sys.executable, str(script)] if kind == "python" else command) as target:
        first = target.line()
        ask(target)
        _, begin, *_ = ask(target)
        time.sleep(ALONE)
        short, before, least, signals = ask(target)
        start, done, gaps = time.monotonic(), before, []
        for number in range(DUMPS):
            take(target, tmp_path / f"{number}")
            if kind == "python":
                continue
            held = held_in(Core(tmp_path / f"{number}"), int(first, 16))
            gap, later, *_ = ask(target)
            gaps.append(gap)
            assert done <= sum(held) <= later
            done = later
        seconds = time.monotonic() - start
        gap, after, most, more = ask(target)
        wait_until_all_move_on(target, most)
        is_left_alone(target)
    assert most > least
    assert (more > signals) == (kind == "go")
    print(
        told(
            f"{kind}, {threads} threads",
            (ALONE, seconds),
            (before - begin, after - before),
            (short, max(gap, *gaps, 0)),
        )
    )


def held_in(core: Core, address: int) -> list[int]:
    """How often each token was handed on, by the core; each has to be as one of the threads left it."""
    words = struct.unpack(f"={TOKENS}Q", core.read(address, 8 * TOKENS))
    for word in words:
        assert word & 0xFFFFFFFF == (word >> 32) * FACTOR & 0xFFFFFFFF
    return [word >> 32 for word in words]


def wait_until_all_move_on(target: Running, least: int) -> None:
    """Wait until each token was handed on once more: none of them is lost."""
    deadline = time.monotonic() + 10
    while ask(target)[2] <= least:
        assert time.monotonic() < deadline, "a token is lost"
        time.sleep(0.01)
