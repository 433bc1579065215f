"""What Volatility 3 makes of an image that ``memdump acquire`` took."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any

import pytest

from memdump.image import open_image
from memdump.machine import manifest
from tests.conftest import made
from tests.machine import readings
from tests.volatility import Volatility, check_processes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.guests import Made

ORDERS = {"memory.lime": "kernel-first", "ascending.lime": "ascending"}
"""Our images of one guest, and the order in which their memory was taken."""


def layer(path: Path) -> Any:
    contexts, lime, physical = (
        pytest.importorskip(f"volatility3.framework.{name}")
        for name in ("contexts", "layers.lime", "layers.physical")
    )
    context = contexts.Context()
    context.config["file.location"] = path.as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    context.config["lime.base_layer"] = "file"
    return lime.LimeLayer(context, "lime", "lime")


@pytest.mark.lab
def test_it_finds_the_same_memory_at_the_same_addresses() -> None:
    guest = made("6.12")
    theirs = layer(guest.lime_image)
    with open_image(guest.qmp_image) as truth, open_image(guest.lime_image) as ours:
        assert theirs.minimum_address == ours.ranges[0].start
        assert theirs.maximum_address == ours.ranges[-1].end - 1
        places = random.Random(1)
        same = 0
        for _ in range(2000):
            found = places.choice(ours.ranges)
            address = places.randrange(found.start, found.end - 4096)
            data = theirs.read(address, 4096)
            assert data == ours.read(address, 4096)
            same += data == truth.read(address, 4096)
    assert same > 1500


@pytest.fixture(scope="module", params=ORDERS)
def image(request: pytest.FixtureRequest, others: Made) -> Path:
    name: str = request.param
    found = others.folder / name
    assert manifest.load(f"{found}.json").order == ORDERS[name]
    return found


@pytest.fixture(scope="module")
def volatility(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Volatility:
    return Volatility(image, tmp_path_factory.mktemp("volatility"))


def test_banners_finds_the_kernels_own_where_it_is(others: Made, volatility: Volatility) -> None:
    release, version = others.truth["machine"]["uname"][2:4]
    found = {row["Offset"]: row["Banner"] for row in volatility.run("banners.Banners")}
    place = physical(others, "linux_banner")
    banner = readings.dumped(others, "memory.elf").at(place, len(found[place]) + 1)
    assert banner == found[place].encode() + b"\n"
    assert found[place].startswith(f"Linux version {release} ")
    assert found[place].endswith(version)


def physical(guest: Made, name: str) -> int:
    """Where a symbol of the kernel is, as far behind its code's beginning as in the guest's kallsyms."""
    symbols = (guest.folder / "kallsyms").read_text()
    address, text = (
        int(re.findall(rf"^(\w+) \w {symbol}$", symbols, re.MULTILINE)[0], 16) for symbol in (name, "_text")
    )
    ((code, _),) = readings.resources(guest, "Kernel code")
    return code + address - text


def test_pslist_tells_the_processes_of_the_guest(others: Made, volatility: Volatility) -> None:
    check_processes(others, volatility.run("linux.pslist.PsList"), taker="python3")
