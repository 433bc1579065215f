"""A machine whose free memory is in a million pieces, all of which are left out."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from memdump.machine import manifest, pieces
from memdump.machine.pieces import Ranges
from memdump.machine.source import Range

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 1_600_000
MOST = 100 << 20
PAGE = 4096


def pages(ranges: list[Range]) -> set[int]:
    return {page for span in ranges for page in range(span.start // PAGE, span.end // PAGE)}


@pytest.mark.parametrize("seed", range(30))
def test_what_is_left_of_ranges_is_what_is_left_of_their_pages(seed: int) -> None:
    chance = random.Random(seed)

    def some() -> list[Range]:
        ends = sorted(chance.sample(range(60), 2 * chance.randrange(8)))
        return [Range(a * PAGE, (b - a) * PAGE) for a, b in zip(ends[::2], ends[1::2], strict=True)]

    ranges, taken = some(), some()
    left = pieces.without(ranges, taken)
    assert pages(left) == pages(ranges) - pages(taken)
    assert left == sorted(left)
    assert all(span.size > 0 for span in left)


def test_very_many_ranges_are_a_sequence_like_any_other() -> None:
    ranges = Ranges()
    for start in (0, PAGE, 5 * PAGE, 9 * PAGE):
        ranges.add(Range(start, PAGE))
    assert ranges == [Range(0, 2 * PAGE), Range(5 * PAGE, PAGE), Range(9 * PAGE, PAGE)]
    assert (len(ranges), ranges[-1], ranges[1:]) == (3, ranges[2], list(ranges)[1:])
    assert ranges.below(6 * PAGE) == list(ranges)[:2]
    assert ranges.below(PAGE) == [Range(0, PAGE)]
    with pytest.raises(IndexError):
        ranges[3]


MANY = """
import re, sys
from pathlib import Path
from types import SimpleNamespace
from memdump.image.age import parse_recipients
from memdump.machine.destination import Options, open_destination
from memdump.machine.manifest import Skipped
from memdump.machine.pieces import Ranges
from memdump.machine.source import Range
from memdump.cli import _acquisition
from memdump.seal import Sealing
from tests.machine.test_manifest import SAMPLE
out, recipient, sign = sys.argv[1:4]
ranges = Ranges()
for number in range(int(sys.argv[4])):
    ranges.add(Range(number << 14, 4096))
facts = SAMPLE._replace(skipped=[Skipped("free", ranges)], written=None, complete=True, stopped_by=None)
with open_destination(out, Options("web1.lime.zst.age")) as place:
    sealed = Sealing(True, parse_recipients([recipient])).upon(place)
    for _ in range(64):
        sealed.write(bytes(1 << 20))
    assert _acquisition.end(facts, sealed, place) is None
    args = SimpleNamespace(manifest=None, sign=sign)
    assert _acquisition.attach(args, facts, place) == 0
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.parametrize("over", ["file", "tcp"])
def test_a_million_ranges_take_little_memory_and_arrive(tmp_path: Path, over: str) -> None:
    """Its own memory is what the kernel says; the readers are ``age``, ``zstd`` and ``ssh-keygen``."""
    from tests.machine.peers import receiver

    for program in ("age-keygen", "ssh-keygen"):
        if subprocess.run(["which", program], capture_output=True).returncode:
            pytest.skip(f"{program} is not installed")
    subprocess.run(["age-keygen", "-o", tmp_path / "age"], check=True, capture_output=True)
    shown = subprocess.run(["age-keygen", "-y", tmp_path / "age"], capture_output=True, text=True, check=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "ssh"], check=True)
    folder = tmp_path / "evidence"
    folder.mkdir()
    image = folder / "web1.lime.zst.age"

    def take(out: str) -> int:
        command: list[str | Path] = [
            sys.executable,
            "-c",
            MANY,
            out,
            shown.stdout.strip(),
            tmp_path / "ssh",
            str(COUNT),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout) << 10

    if over == "file":
        peak = take(str(image))
    else:
        with receiver(folder) as there:
            peak = take(f"tcp:127.0.0.1:{there.port}")
            assert there.end()[0] == 0
    assert peak < MOST
    data = (folder / f"{image.name}.json").read_bytes()
    assert len(data) > 16 << 20
    assert len(json.loads(data)["skipped"][0]["ranges"]) == COUNT
    verify: list[str | Path] = [
        "ssh-keygen",
        "-Y",
        "check-novalidate",
        "-n",
        "memdump",
        "-s",
        folder / f"{image.name}.json.sig",
    ]
    assert subprocess.run(verify, input=data, capture_output=True).returncode == 0
    packed = subprocess.run(["age", "-d", "-i", tmp_path / "age", image], capture_output=True, check=True)
    assert packed.stdout.count(data[:2000]) == 1
    assert data in packed.stdout
    assert len(manifest.load(folder / f"{image.name}.json").skipped[0].ranges) == COUNT
