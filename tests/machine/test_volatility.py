"""What Volatility 3 makes of an image that ``memdump acquire`` took."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from memdump.image import open_image
from tests.conftest import made

if TYPE_CHECKING:
    from pathlib import Path


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
