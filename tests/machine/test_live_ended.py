"""Acquisitions in the live guest that are ended by a signal, in every phase, at a random moment of it."""

from __future__ import annotations

import json
import random
import re
import signal
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.lab.live import MEMDUMP
from tests.machine import ending

if TYPE_CHECKING:
    from tests.lab.live import Live

PAGE = 4096
OUT = "/lab/out/ended"
SPLIT = "--split 8M"
FURTHEST = {"sweep": 0, "spill": 24 << 20, "image": 64 << 20}
"""Bytes of early copies on the disk, or of the image, after which a signal comes at the latest."""


class Constants(NamedTuple):
    """The part of the kernel that nobody ever writes to."""

    start: int
    end: int
    pages: dict[int, int]
    """The CRC-32 of each page, as QEMU has it."""


@pytest.fixture(scope="module")
def constants(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Constants:
    found = re.search(r"^ +(\w+)-(\w+) : Kernel rodata$", live.get("/proc/iomem").decode(), re.MULTILINE)
    assert found
    start, end = int(found[1], 16), int(found[2], 16) + 1
    path = tmp_path_factory.mktemp("constants") / "rodata"
    live.monitor.ask("pmemsave", val=start, size=end - start, filename=str(path))
    data = path.read_bytes()
    end -= end % PAGE
    return Constants(
        start,
        end,
        {at: zlib.crc32(data[at - start :][:PAGE]) for at in range(start, end, PAGE)},
    )


def end(live: Live, constants: Constants, number: int, phase: str, options: str) -> dict[str, Any]:
    """Take the guest's memory, and end that somewhere in a phase; tell what was seen and what is left."""
    live.run(f"rm -rf {OUT} && mkdir -p {OUT}")
    live.put("/tmp/ending.py", Path(ending.__file__).read_bytes())
    size = random.Random(f"{number} {phase}").randint(0, FURTHEST[phase])
    command = f"{MEMDUMP} acquire {options} {OUT}/m.lime"
    words = f"{OUT} {int(number)} {phase} {size} {constants.start} {constants.end} {command}"
    done = live.run(f"{MEMDUMP.removesuffix('-m memdump')} /tmp/ending.py {words}")
    found: dict[str, Any] = json.loads(done.stdout)
    print(f"{signal.Signals(number).name} during the {phase}: {found['seen']}")
    assert (found["seen"]["image"] > 0) == (phase == "image")
    assert found["seen"]["spill"] > 0 or phase == "sweep"
    return found


@pytest.mark.parametrize(("phase", "options"), [("sweep", ""), ("spill", SPLIT), ("image", SPLIT)])
def test_what_is_killed_leaves_nothing_that_looks_whole(
    live: Live, constants: Constants, phase: str, options: str
) -> None:
    found = end(live, constants, signal.SIGKILL, phase, options)
    assert found["status"] == -signal.SIGKILL
    assert found["names"]
    assert all(name.endswith(".part") for name in found["names"])


@pytest.mark.parametrize(
    ("number", "phase", "options"),
    [
        (signal.SIGTERM, "sweep", ""),
        (signal.SIGINT, "spill", SPLIT),
        (signal.SIGTERM, "image", SPLIT),
    ],
)
def test_what_is_asked_to_end_leaves_a_valid_image_of_what_it_has(
    live: Live, constants: Constants, number: signal.Signals, phase: str, options: str
) -> None:
    found = end(live, constants, number, phase, options)
    assert found["status"] == 1, found["said"]
    assert f"stopped by {number.name}; what was written stands in {OUT}/m.lime" in found["said"]
    records = {"m.lime.json", "m.lime.custody.jsonl"}
    parts = sorted({*found["names"]} - records)
    assert records < {*found["names"]}
    assert all(name.endswith(".part") for name in parts)
    record = json.loads(live.get(f"{OUT}/m.lime.json"))
    assert record["complete"] is False
    assert record["written"]["sha256"] == found["sha256"]
    ranges, missing = (sum(size for _, size in record[key]) for key in ("ranges", "not_taken"))
    assert found["size"] == ranges - missing < ranges
    assert found["size"] >= found["seen"]["spill"]
    for address, crc in found["pages"].items():
        assert constants.pages[int(address)] == crc, address
    if phase == "image":  # the sweep is over then, and all that it has is in the image
        assert len(found["pages"]) == len(constants.pages)
    live.run(f"{MEMDUMP} verify {OUT}/{parts[0]}")
