"""Whatever smear has done to the memory, every table comes to an end without an error of its own."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from memdump import tables
from memdump.image.base import Image, MissingMemory
from memdump.kernel import open_kernel

if TYPE_CHECKING:
    from memdump.dump import Dump
    from memdump.kernel.kernel import Kernel

PAGE = 4096
TABLES = [name for name in tables.BUILT_IN if name != "problems"]
MOST_ROWS = 1 << 20


class Smeared(Image):
    """Another image; once it is `smeared`, pages are missing, empty or full of pointers to anywhere."""

    def __init__(self, image: Image) -> None:
        self.path, self.format, self.ranges, self.defects = image.path, image.format, image.ranges, []
        self._image = image
        self.smeared = False
        self.seed = 0
        self.share = 0.0
        self.pointers = 0

    def _read_within(self, index: int, offset: int, size: int) -> bytes:
        start = self.ranges[index].start + offset
        data = self._image.read(start, size)
        return self._smear(start, data) if self.smeared else data

    def _smear(self, start: int, data: bytes) -> bytes:
        smeared = bytearray(data)
        for page in range(start // PAGE, (start + len(data) - 1) // PAGE + 1):
            chance = random.Random(page << 16 | self.seed)
            if chance.random() >= self.share:
                continue
            low, high = max(start, page * PAGE), min(start + len(data), (page + 1) * PAGE)
            kind = chance.randrange(4)
            if kind == 0:
                raise MissingMemory(low, high - low)
            if kind == 1:
                smeared[low - start : high - start] = bytes(high - low)
                continue
            content = chance.randbytes(PAGE) if kind == 2 else self._pointers(chance)
            smeared[low - start : high - start] = content[low - page * PAGE : high - page * PAGE]
        return bytes(smeared)

    def _pointers(self, chance: random.Random) -> bytes:
        """A page of pointers into the memory that is there, so that lists run into others and themselves."""
        places = [self.pointers + chance.randrange(1 << 24) * 64 % (1 << 29) for _ in range(16)]
        return b"".join(chance.choice(places).to_bytes(8, "little") for _ in range(PAGE // 8))

    def close(self) -> None:
        """The other image is closed by whoever opened it."""


@pytest.fixture(scope="module")
def smeared(dump: Dump) -> tuple[Smeared, Kernel]:
    """An image that can be smeared, and the kernel that was understood while it was whole."""
    image = Smeared(dump.image)
    kernel = open_kernel(image)
    image.pointers = kernel.direct_map
    assert kernel.program.type("struct task_struct")
    return image, kernel


@pytest.mark.lab
@pytest.mark.parametrize("share", [0.003, 0.05, 0.5])
@pytest.mark.parametrize("name", TABLES)
def test_smear_ends_no_table_with_an_error(smeared: tuple[Smeared, Kernel], name: str, share: float) -> None:
    image, kernel = smeared
    for image.seed in range(2):
        kernel.__dict__.pop("paths", None)  # what it remembers was read while the memory was whole
        image.share, image.smeared = share, True
        try:
            count = sum(1 for _ in tables.find(name).rows(kernel))
        finally:
            image.smeared = False
        assert count < MOST_ROWS
