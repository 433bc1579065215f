"""QEMU's own dumps, beside the same memory as ``pmemsave`` wrote it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from memdump.image import open_image
from memdump.image.base import MissingMemory
from memdump.machine.source import Range

from .qemu import ROM, SIZE, pattern

if TYPE_CHECKING:
    from pathlib import Path


def ram(folder: Path) -> bytes:
    return (folder / "ram").read_bytes()


def test_the_pattern_is_in_the_memory(qemu: Path) -> None:
    assert pattern() in ram(qemu)


@pytest.mark.parametrize(("name", "kind"), [("memory.elf", "elf"), ("memory.kdump", "kdump")])
def test_all_memory_is_read(qemu: Path, name: str, kind: str) -> None:
    with open_image(qemu / name) as image:
        assert image.format == kind
        assert image.architecture == "x86_64"
        assert image.ranges == (Range(0, SIZE), Range(*ROM))
        assert image.read(0, SIZE) == ram(qemu)
        assert image.read(*ROM) == (qemu / "rom").read_bytes()
        assert image.defects == []
        assert image.size == SIZE + ROM[1]


def test_a_dump_by_virtual_addresses_is_read(qemu: Path) -> None:
    with open_image(qemu / "paged.elf") as image:
        assert image.ranges == (Range(0, SIZE),)
        assert image.read(0, SIZE) == ram(qemu)


@pytest.mark.parametrize("name", ["memory.elf", "memory.kdump"])
def test_a_dump_of_a_machine_in_32_bit_mode_is_read(qemu32: Path, name: str) -> None:
    with open_image(qemu32 / name) as image:
        assert image.read(0, SIZE) == ram(qemu32)


@pytest.mark.parametrize("name", ["memory.elf", "memory.kdump"])
def test_chunks_are_all_memory_in_order(qemu: Path, name: str) -> None:
    with open_image(qemu / name) as image:
        chunks = [(address, bytes(data)) for address, data in image.chunks(1 << 20)]
    assert [address for address, _ in chunks] == [
        *range(0, SIZE, 1 << 20),
        ROM[0],
    ]
    assert b"".join(data for _, data in chunks) == ram(qemu) + (qemu / "rom").read_bytes()


@pytest.mark.parametrize("name", ["memory.elf", "memory.kdump"])
def test_reads_at_any_place(qemu: Path, name: str) -> None:
    flat, chance = ram(qemu), random.Random(1)
    with open_image(qemu / name) as image:
        for _ in range(3000):
            address = chance.randrange(SIZE)
            size = chance.choice([0, 1, 8, 4096, 9000, chance.randrange(70000)])
            size = min(size, SIZE - address)
            assert image.read(address, size) == flat[address : address + size]


@pytest.mark.parametrize("name", ["memory.elf", "memory.kdump"])
@pytest.mark.parametrize("place", [(SIZE, 1), (SIZE - 4, 8), (ROM[0] - 1, 2), (1 << 63, 8), (-8, 8), (-4, 8)])
def test_what_is_not_there_is_missing(qemu: Path, name: str, place: tuple[int, int]) -> None:
    with open_image(qemu / name) as image:
        image.read(SIZE - 8, 8)  # the range of the last read is remembered
        with pytest.raises(MissingMemory):
            image.read(*place)
