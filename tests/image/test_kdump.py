"""Compressed kdump where no writer at hand makes it: other compressors, parts, older headers, damage."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest
import zstandard

from memdump.errors import NotADump
from memdump.image.base import MissingMemory
from memdump.machine.source import Range

from . import build

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memdump.image.base import Image

PAGE = 4096
ZSTD_BOMB = zstandard.ZstdCompressor().compress(bytes(100 << 20))[:PAGE]
CHANCE = random.Random(4)
PAGES = {
    number: CHANCE.choice([bytes(PAGE), CHANCE.randbytes(PAGE), CHANCE.randbytes(32) * 128])
    for number in [*range(20), 40, 41, 42, 100, 70000, 70001]
}


@pytest.mark.parametrize("codec", list(build.CODECS))
def test_every_compressor(opened: Callable[[bytes], Image], qemu: Path, codec: str) -> None:
    flat = (qemu / "ram").read_bytes()[: 8 << 20]
    pages = {number: flat[number * PAGE : (number + 1) * PAGE] for number in range(len(flat) // PAGE)}
    image = opened(build.kdump(pages, codec))
    assert image.read(0, len(flat)) == flat


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_headers_of_any_machine(opened: Callable[[bytes], Image], bits: int, order: str) -> None:
    image = opened(build.kdump(PAGES, bits=bits, order=order, vmcoreinfo=b"OSRELEASE=6.1\n"))
    assert image.ranges == (
        Range(0, 20 * PAGE),
        Range(40 * PAGE, 3 * PAGE),
        Range(100 * PAGE, PAGE),
        Range(70000 * PAGE, 2 * PAGE),
    )
    assert (image.architecture, image.vmcoreinfo, image.defects) == ("x86_64", b"OSRELEASE=6.1\n", [])
    for number, page in PAGES.items():
        assert image.read(number * PAGE, PAGE) == page


def test_excluded_pages_are_missing(opened: Callable[[bytes], Image]) -> None:
    image = opened(build.kdump(PAGES))
    with pytest.raises(MissingMemory) as caught:
        image.read(19 * PAGE, 2 * PAGE)
    assert caught.value.address == 20 * PAGE


def test_one_file_of_a_split_dump(opened: Callable[[bytes], Image]) -> None:
    image = opened(build.kdump(PAGES, split=(10, 41)))
    assert image.ranges == (Range(10 * PAGE, 10 * PAGE), Range(40 * PAGE, PAGE))
    assert image.read(40 * PAGE, PAGE) == PAGES[40]
    assert image.defects == ["one file of a split dump: only physical 0xa000 to 0x29000 is in it"]


def test_an_incomplete_dump_says_so(opened: Callable[[bytes], Image]) -> None:
    assert "ran out of disk" in opened(build.kdump(PAGES, status=8)).defects[0]


def test_truncated_in_the_pages(opened: Callable[[bytes], Image]) -> None:
    whole = build.kdump(PAGES, "none")
    image = opened(whole[: -2 * PAGE - 5])
    assert image.ranges[-1] == Range(40 * PAGE, 3 * PAGE)
    assert image.read(42 * PAGE, PAGE) == PAGES[42]
    assert image.defects == [f"truncated: 3 of {len(PAGES)} pages lie behind the end of the file"]


def test_truncated_in_the_descriptors(opened: Callable[[bytes], Image]) -> None:
    data = sum(len(page) for page in PAGES.values())
    with pytest.raises(NotADump, match="holds no memory"):
        opened(build.kdump(PAGES, "none")[: -data - 24 * 3])


@pytest.mark.parametrize("keep", [8, 4095, 4097, 8192 + 100])
def test_truncated_in_the_headers(opened: Callable[[bytes], Image], keep: int) -> None:
    with pytest.raises(NotADump, match="header is truncated or damaged"):
        opened(build.kdump(PAGES)[:keep])


def test_a_damaged_page_is_missing_and_no_more(opened: Callable[[bytes], Image]) -> None:
    content = bytearray(build.kdump(PAGES))
    descriptors = PAGE * (2 + 2 * 3)
    content[descriptors + 24 * 5 + 8] = 3  # the size of the data of page 5
    image = opened(bytes(content))
    with pytest.raises(MissingMemory) as caught:
        image.read(4 * PAGE, 3 * PAGE)
    assert (caught.value.address, caught.value.size) == (5 * PAGE, PAGE)
    assert image.read(6 * PAGE, PAGE) == PAGES[6]
    assert [address for address, _ in image.chunks()][:3] == [0, 6 * PAGE, 40 * PAGE]
    assert "4096 bytes in 1 place" in image.defects[0]


@pytest.mark.parametrize(("codec", "bomb"), [("zlib", zlib.compress(bytes(3 << 20))), ("zstd", ZSTD_BOMB)])
def test_a_page_that_would_unpack_to_megabytes_takes_no_memory(
    opened: Callable[[bytes], Image], codec: str, bomb: bytes
) -> None:
    image = opened(build.kdump({0: bytes(PAGE), 1: b"B" * PAGE}, codec).ljust(1 << 16, b"\0"))
    content = bytearray(image.path.read_bytes())
    descriptors = PAGE * 4
    struct.pack_into("<QI", content, descriptors, len(content), len(bomb))
    image = opened(bytes(content) + bomb)
    image.read(PAGE, 8)  # loads the library
    tracemalloc.start()
    with pytest.raises(MissingMemory):
        image.read(0, 8)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20


def test_a_page_is_not_looked_for_in_megabytes(opened: Callable[[bytes], Image]) -> None:
    content = bytearray(build.kdump({0: bytes(PAGE)}) + bytes(4 << 20))
    content[PAGE * 4 + 8 : PAGE * 4 + 12] = (4 << 20).to_bytes(4, "little")
    image = opened(bytes(content))
    tracemalloc.start()
    with pytest.raises(MissingMemory):
        image.read(0, 8)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20
