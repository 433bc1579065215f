"""AVML's compressed format, beside what AVML's own converter makes of the same memory."""

from __future__ import annotations

import random
import struct
import subprocess
from typing import TYPE_CHECKING

import cramjam
import pytest

from memdump.errors import NotADump
from memdump.image import open_image
from memdump.image.base import MissingMemory
from memdump.machine.source import Range

from . import build
from .qemu import SIZE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memdump.image.base import Image

BLOCK = 16 << 20
CHANCE = random.Random(3)
SOME = CHANCE.randbytes(50000) + bytes(100000) + b"words and words " * 5000


@pytest.fixture(scope="session")
def converted(qemu: Path, avml: Path) -> Path:
    """The guest's memory as AVML compresses it."""
    return convert(avml, qemu, "lime_compressed", "memory.avml")


def convert(avml: Path, qemu: Path, kind: str, name: str) -> Path:
    out = qemu / name
    options = ["--source-format", "raw", "--format", kind]
    subprocess.run([avml, "convert", *options, qemu / "ram", out], check=True)
    return out


def test_what_avml_wrote_is_read(qemu: Path, converted: Path) -> None:
    flat = (qemu / "ram").read_bytes()
    blocks = [start for start in range(0, SIZE, BLOCK) if flat[start : start + BLOCK].strip(b"\0")]
    with open_image(converted) as image:
        assert (image.format, image.defects) == ("avml", [])
        assert image.ranges == tuple(Range(start, BLOCK) for start in blocks)
        for found in image.ranges:
            assert image.read(found.start, found.size) == flat[found.start : found.end]
            chance = random.Random(found.start)
            for _ in range(500):
                address = found.start + chance.randrange(BLOCK - 9000)
                size = chance.randrange(9000)
                assert image.read(address, size) == flat[address : address + size]


def test_the_uncompressed_output_of_avml_is_read(qemu: Path, avml: Path) -> None:
    flat = (qemu / "ram").read_bytes()
    out = convert(avml, qemu, "lime", "memory.avml.lime")
    with open_image(out) as image:
        assert (image.format, image.defects) == ("lime", [])
        for found in image.ranges:
            assert image.read(found.start, found.size) == flat[found.start : found.end]


def test_a_truncated_file_has_the_memory_before_the_cut(converted: Path, qemu: Path, tmp_path: Path) -> None:
    flat, whole = (qemu / "ram").read_bytes(), converted.read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    with open_image(cut) as image, open_image(converted) as complete:
        assert 0 < image.size < complete.size
        assert any("truncated" in line for line in image.defects)
        for address, data in image.chunks():
            assert bytes(data) == flat[address : address + len(data)]


def test_a_block_of_any_size_is_read(opened: Callable[[bytes], Image]) -> None:
    image = opened(build.avml([(0x1000, SOME), (0x40000000, SOME[::-1])]))
    assert image.ranges == (Range(0x1000, len(SOME)), Range(0x40000000, len(SOME)))
    assert image.read(0x1000, len(SOME)) == SOME
    assert image.read(0x40000000 + 70000, 100) == SOME[::-1][70000:70100]


def test_blocks_in_any_order_are_sorted(opened: Callable[[bytes], Image]) -> None:
    image = opened(build.avml([(0x40000000, SOME[::-1]), (0x1000, SOME)]))
    assert [found.start for found in image.ranges] == [0x1000, 0x40000000]
    assert image.read(0x1000, len(SOME)) == SOME


def test_of_overlapping_blocks_the_first_is_used(opened: Callable[[bytes], Image]) -> None:
    image = opened(build.avml([(0x10000, b"A" * 8192), (0x11000, b"B" * 8192)]))
    assert image.read(0x10000, 12288) == b"A" * 8192 + b"B" * 4096
    assert len(image.defects) == 1
    assert "overlap" in image.defects[0]


def test_a_damaged_frame_is_missing_and_no_more(opened: Callable[[bytes], Image]) -> None:
    content = bytearray(build.avml([(0, SOME)]))
    content[1000] ^= 0xFF  # inside the random bytes of the first frame, so that only the checksum can tell
    image = opened(bytes(content))
    with pytest.raises(MissingMemory):
        image.read(0, 8)
    assert image.read(65536, len(SOME) - 65536) == SOME[65536:]
    assert [(address, bytes(data)) for address, data in image.chunks()] == [(65536, SOME[65536:])]
    assert "65536 bytes in 1 place" in image.defects[0]


def test_a_stream_with_padding_is_read(opened: Callable[[bytes], Image]) -> None:
    block = build.avml_block(0, SOME)
    stream = block[32:-8] + b"\xfe\x04\x00\x00pad!"
    image = opened(block[:32] + stream + struct.pack("<Q", len(stream)))
    assert image.read(0, len(SOME)) == SOME
    assert image.defects == []


def test_what_is_behind_the_last_block_is_said(opened: Callable[[bytes], Image]) -> None:
    image = opened(build.avml([(0, SOME)]) + b"something else")
    assert image.read(0, len(SOME)) == SOME
    assert "no AVML block at offset" in image.defects[0]


def test_frames_that_claim_more_than_they_can_hold_are_no_memory(opened: Callable[[bytes], Image]) -> None:
    # Each says 64 KiB in a few bytes; their index alone would take more room than any memory in them.
    frames = (b"\x00\x08\x00\x00" + bytes(4) + b"\x80\x80\x04" + bytes(1)) * 1000
    header = struct.pack("<4sIQQQ", b"AVML", 2, 0, (1 << 30) - 1, 0)
    with pytest.raises(NotADump, match="0 of 1073741824 bytes"):
        opened(header + frames + struct.pack("<Q", len(frames)))


def test_a_block_of_empty_frames_ends_soon(opened: Callable[[bytes], Image]) -> None:
    padding = b"\xfe\x00\x00\x00" * 100_000
    header = struct.pack("<4sIQQQ", b"AVML", 2, 0, 65535, 0)
    frame = bytes(cramjam.snappy.compress(bytes(65536)))
    with pytest.raises(NotADump, match="0 of 65536 bytes"):
        opened(header + padding + frame)
