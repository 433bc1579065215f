"""What `SeekableWriter` writes, read by the ``zstd`` program, by its Python binding, and by pyzstd."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

import pytest
import zstandard

from memdump.image import zstd_seekable
from memdump.image.zstd_seekable import SeekableWriter

from .conftest import tool
from .sealed import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FRAME = 4096
METADATA = b'{"format": "memdump manifest"}'


def memory(size: int, seed: int = 0) -> bytes:
    """Bytes as memory has them: much that is zero, some that repeats, some that does not."""
    source = random.Random(seed)
    parts = []
    while size > 0:
        piece = source.choice([bytes(9000), source.randbytes(3000), b"a page of text " * 400])[:size]
        parts.append(piece)
        size -= len(piece)
    return b"".join(parts)


def write(pieces: Sequence[bytes], metadata: bytes = b"", frame: int = FRAME, threads: int = 2) -> bytes:
    stream = io.BytesIO()
    writer = SeekableWriter(stream, frame=frame, threads=threads)
    for piece in pieces:
        writer.write(piece)
    writer.close((lambda: [metadata[:9], metadata[9:]]) if metadata else None)
    return stream.getvalue()


class Entry(NamedTuple):
    offset: int
    packed: int
    size: int
    checksum: int


def table(file: bytes) -> list[Entry]:
    """The seek table, read as its specification describes it."""
    count, descriptor, magic = struct.unpack("<IBI", file[-9:])
    assert magic == 0x8F92EAB1
    assert descriptor == 0x80
    start = len(file) - 9 - 12 * count - 8
    assert struct.unpack("<II", file[start : start + 8]) == (0x184D2A5E, 12 * count + 9)
    entries, offset = [], 0
    for at in range(start + 8, len(file) - 9, 12):
        entries.append(Entry(offset, *struct.unpack("<III", file[at : at + 12])))
        offset += entries[-1].packed
    assert offset == start
    return entries


@pytest.mark.parametrize("size", [0, 1, FRAME - 1, FRAME, FRAME + 1, 100 * FRAME, 700_001])
@pytest.mark.parametrize("step", [1000, 1 << 20])
def test_zstd_restores_it(size: int, step: int) -> None:
    data = memory(size)
    file = write([data[at : at + step] for at in range(0, size, step)], METADATA)
    assert run(tool("zstd", "apt install zstd"), "-dc", data=file) == data


def test_every_entry_of_the_table_is_a_frame_of_its_own() -> None:
    data = memory(300_001)
    file = write([data], METADATA)
    *frames, skipped = table(file)
    assert {entry.size for entry in frames[:-1]} == {FRAME}
    parts = [
        zstandard.ZstdDecompressor().decompress(
            file[entry.offset : entry.offset + entry.packed], allow_extra_data=False
        )
        for entry in frames
    ]
    assert [len(part) for part in parts] == [entry.size for entry in frames]
    assert b"".join(parts) == data
    content = file[skipped.offset : skipped.offset + skipped.packed]
    assert skipped.size == 0
    assert content == struct.pack("<II", 0x184D2A5D, len(METADATA) + 8) + b"memdump\0" + METADATA


def test_the_checksums_are_those_of_the_program() -> None:
    """XXH64 of a frame's content, of which the program puts the low half at the end of its file."""
    data = memory(50_000)
    at = 0
    for entry in table(write([data], METADATA)):
        alone = run(tool("zstd", "apt install zstd"), "-c", "--check", data=data[at : at + entry.size])
        assert entry.checksum == int.from_bytes(alone[-4:], "little")
        at += entry.size


def test_another_implementation_seeks_in_it(tmp_path: Path) -> None:
    pyzstd = pytest.importorskip("pyzstd", reason="pip install pyzstd: another reader of the seekable format")
    data = memory(500_000)
    path = tmp_path / "file"
    path.write_bytes(write([data], METADATA))
    with pyzstd.SeekableZstdFile(path) as file:
        for at in (400_000, 0, 123_456):
            file.seek(at)
            assert file.read(10_000) == data[at : at + 10_000]


def test_frames_that_are_zero_are_all_the_same() -> None:
    file = write([bytes(10 * FRAME)])
    assert len({file[entry.offset : entry.offset + entry.packed] for entry in table(file)}) == 1


def test_frames_grow_so_that_the_table_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstd_seekable, "GROW", 256)
    data = memory(8 << 20)
    file = write([data])
    sizes = [entry.size for entry in table(file)][:-1]
    assert sizes == sorted(sizes)
    assert set(sizes) == {FRAME, 2 * FRAME, 4 * FRAME, 8 * FRAME}
    assert zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read() == data


def test_what_was_written_is_the_callers_again() -> None:
    stream = io.BytesIO()
    writer = SeekableWriter(stream, threads=2)
    data = memory(3 << 20)
    buffer = bytearray(1 << 18)
    for at in range(0, len(data), len(buffer)):
        buffer[:] = data[at : at + len(buffer)]
        writer.write(memoryview(buffer))
        buffer[:] = b"\xff" * len(buffer)
    writer.close()
    reader = zstandard.ZstdDecompressor().stream_reader(stream.getvalue(), read_across_frames=True)
    assert reader.read() == data


class Full:
    """A stream whose disk is full after a while."""

    def __init__(self) -> None:
        self.room = 2 << 20

    def write(self, data: bytes | memoryview) -> None:
        self.room -= len(data)
        if self.room < 0:
            raise OSError("full")


def test_a_stream_that_fails_ends_it() -> None:
    writer = SeekableWriter(Full(), threads=2)
    noise = random.Random(1).randbytes(1 << 20)
    with pytest.raises(OSError, match="full"):
        for _ in range(40):
            writer.write(noise)
    with pytest.raises(OSError, match="full"):
        writer.write(noise)
    with pytest.raises(OSError, match="full"):
        writer.close()
    for thread in threading.enumerate():
        if thread.name.startswith("zstd"):
            thread.join(10)
            assert not thread.is_alive()


MOST = 80 << 20

NOISE = """
import os, re, sys
from memdump.image.zstd_seekable import SeekableWriter
noise = os.urandom(2 << 20)
with open("/dev/null", "wb") as out:
    writer = SeekableWriter(out, frame=int(sys.argv[1]), threads=8)
    for _ in range(100):
        writer.write(noise)
    writer.close()
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.parametrize("frame", [64 << 10, 2 << 20])
def test_memory_is_bounded_where_nothing_can_be_compressed(frame: int) -> None:
    command = [sys.executable, "-c", NOISE, str(frame)]
    peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(peak) << 10 < MOST
