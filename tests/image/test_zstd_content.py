"""Zstandard files of every writer, read in place: whole, cut off, damaged and hostile."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from memdump.errors import NotADump
from memdump.image import zstd_content, zstd_index, zstd_unpacked
from memdump.image.content import Damaged
from memdump.image.zstd_content import SeekableContent, open_zstd

from .conftest import tool
from .sealed import Bytes, run
from .test_zstd_writer import FRAME, METADATA, memory, table, write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memdump.image.content import Content

DATA = memory(300_001)
FILE = write([DATA], METADATA)
NAME = Path("image.zst")


def opened(file: bytes) -> tuple[Content, bytes, list[str]]:
    defects: list[str] = []
    unpacked = open_zstd(NAME, Bytes(file), defects)
    return unpacked.content, unpacked.metadata, defects


def seek_table(entries: Sequence[tuple[int, ...]], descriptor: int = 0) -> bytes:
    packed = b"".join(struct.pack(f"<{len(entry)}I", *entry) for entry in entries)
    footer = struct.pack("<IBI", len(entries), descriptor, 0x8F92EAB1)
    return struct.pack("<II", 0x184D2A5E, len(packed) + 9) + packed + footer


def frame(data: bytes, *, write_checksum: bool = False, write_content_size: bool = True) -> bytes:
    compressor = zstandard.ZstdCompressor(
        level=1, write_checksum=write_checksum, write_content_size=write_content_size
    )
    return compressor.compress(data)


def seekable(frames: Sequence[bytes], sizes: Sequence[int]) -> bytes:
    """Frames with a table without checksums, as the format allows."""
    return b"".join(frames) + seek_table(
        [(len(packed), size) for packed, size in zip(frames, sizes, strict=True)]
    )


PIECES = [DATA[at : at + 10_000] for at in range(0, len(DATA), 10_000)]

FORMS: dict[str, Callable[[], bytes]] = {
    "memdump": lambda: FILE,
    "no checksums": lambda: seekable([frame(piece) for piece in PIECES], [len(piece) for piece in PIECES]),
    "no sizes in the frames": lambda: seekable(
        [frame(piece, write_content_size=False) for piece in PIECES], [len(piece) for piece in PIECES]
    ),
    "no table": lambda: b"".join(frame(piece, write_checksum=True) for piece in PIECES),
    "frames that give nothing": lambda: b"".join(frame(piece) + frame(b"") for piece in PIECES),
    "neither table nor sizes": lambda: b"".join(frame(piece, write_content_size=False) for piece in PIECES),
    "zstd": lambda: run(tool("zstd", "apt install zstd"), "-c", data=DATA),
    "zstd -19 --long": lambda: run(tool("zstd", "apt install zstd"), "-c", "-19", "--long", data=DATA),
    "zstd -T0 --no-check": lambda: run(
        tool("zstd", "apt install zstd"), "-cT0", "-B100KB", "--no-check", data=DATA
    ),
    "pzstd": lambda: run(tool("pzstd", "apt install zstd"), "-c", "-p2", data=DATA),
}


@cache
def made(form: str) -> bytes:
    return FORMS[form]()


@pytest.mark.parametrize("form", FORMS)
def test_every_writer(form: str) -> None:
    content, _, defects = opened(made(form))
    assert len(content) == len(DATA)
    assert content[:] == DATA
    assert content[123_456:123_460] == DATA[123_456:123_460]
    assert defects == []
    content.close()


def test_what_pyzstd_writes(tmp_path: Path) -> None:
    pyzstd = pytest.importorskip("pyzstd", reason="pip install pyzstd: another writer of the seekable format")
    path = tmp_path / "file"
    with pyzstd.SeekableZstdFile(path, "w", max_frame_content_size=10_000) as file:
        file.write(DATA)
    content = SeekableContent(Bytes(path.read_bytes()))
    assert content[:] == DATA
    assert content.defects == []


@given(st.data())
def test_any_slice(data: st.DataObject) -> None:
    whole = slice(-len(DATA) - 2, len(DATA) + 2)
    content = SeekableContent(Bytes(FILE))
    for _ in range(10):
        start = data.draw(st.none() | st.integers(whole.start, whole.stop))
        stop = data.draw(st.none() | st.integers(whole.start, whole.stop) | st.just(start and start + 8))
        assert content[start:stop] == DATA[start:stop]


def test_frames_go_and_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstd_content, "CACHE", 5 * FRAME)
    content = SeekableContent(Bytes(FILE))
    places = random.Random(0).choices(range(len(DATA)), k=2000)
    assert all(content[at : at + 100] == DATA[at : at + 100] for at in places)
    assert sum(map(len, content._frames.values())) <= 5 * FRAME


def test_a_long_slice_uses_all_cores_and_leaves_the_cache_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstd_content, "LONG", 10 * FRAME)
    monkeypatch.setattr(zstd_content, "AT_ONCE", 3 * FRAME)
    content = SeekableContent(Bytes(FILE))
    assert content[5:10] == DATA[5:10]
    assert content[100:-100] == DATA[100:-100]
    assert list(content._frames) == [0]
    content.close()


def test_only_what_is_needed_is_read() -> None:
    file = Bytes(FILE)
    content = SeekableContent(file)
    file.read = 0
    assert content[200_000:200_010] == DATA[200_000:200_010]
    number = 200_000 // FRAME
    assert file.read == table(FILE)[number].packed


@pytest.mark.parametrize("form", ["memdump", "no table"])
def test_the_metadata(form: str) -> None:
    assert opened(made(form))[1] == (METADATA if form == "memdump" else b"")


def test_the_metadata_of_a_file_without_its_table() -> None:
    entries = table(FILE)
    cut = FILE[: entries[-1].offset + entries[-1].packed]
    content, metadata, defects = opened(cut)
    assert (content[:], metadata, defects) == (DATA, METADATA, [])


@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"\0\0\0\0"])
def test_metadata_of_another_program(size: bytes) -> None:
    """Their frame may have our magic number, and lie about its size where nothing checks it."""
    entries = table(FILE)
    at = entries[-1].offset
    for place, data in ((at + 4, size), (at + 8, b"foreign\0")):
        file = FILE[:place] + data + FILE[place + len(data) :]
        content, metadata, _ = opened(file)
        assert (content[:], metadata) == (DATA, b"")


# Cut off: every place at which a file can end.

PLACES = {
    "in the footer": len(FILE) - 3,
    "in the table": len(FILE) - 100,
    "in front of the table": table(FILE)[-1].offset + table(FILE)[-1].packed,
    "in the metadata": table(FILE)[-1].offset + 20,
    "in front of the metadata": table(FILE)[-1].offset,
    "between two frames": table(FILE)[30].offset,
    "in the magic number of a frame": table(FILE)[30].offset + 2,
    "in the header of a frame": table(FILE)[30].offset + 5,
    "in a block header": table(FILE)[30].offset + 9,
    "in a block": table(FILE)[30].offset + 30,
    "in a checksum": table(FILE)[31].offset - 2,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_file_that_ends_early_gives_what_is_whole(place: str) -> None:
    content, _, defects = opened(FILE[: PLACES[place]])
    if PLACES[place] >= PLACES["in front of the metadata"]:
        assert content[:] == DATA
    else:
        assert content[:] == DATA[: 30 * FRAME]
    if place.startswith("in a") or place in ("in the footer", "in the table", "in the metadata"):
        assert len(defects) == 1


@given(st.integers(0, len(FILE) - 1))
def test_a_file_that_ends_anywhere(end: int) -> None:
    if end < table(FILE)[1].offset:
        # Of the first frame even a part is given, where a whole block of it is there.
        with pytest.raises(NotADump):
            opened(FILE[:end])
        return
    content, _, _ = opened(FILE[:end])
    assert len(content) % FRAME == 0 or len(content) == len(DATA)
    assert content[:] == DATA[: len(content)]


def test_one_frame_that_ends_early_gives_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstd_content, "LARGEST_FRAME", 1 << 10)
    monkeypatch.setattr(zstd_index, "LARGEST_LOST", 1 << 10)
    noise = random.Random(2).randbytes(1 << 20)
    file = run(tool("zstd", "apt install zstd"), "-c", data=noise)
    content, _, defects = opened(file[:-300_000])
    assert len(content) >= len(noise) - 300_000 - (128 << 10)
    assert content[:] == noise[: len(content)]
    assert "truncated" in defects[0]


# Damage inside.


def flipped(file: bytes, at: int) -> bytes:
    return file[:at] + bytes([file[at] ^ 0x10]) + file[at + 1 :]


@given(st.integers(0, len(table(FILE)) - 2), st.floats(0, 1, exclude_max=True))
def test_damage_in_a_frame_loses_that_frame_only(number: int, share: float) -> None:
    entry = table(FILE)[number]
    content, _, _ = opened(flipped(FILE, entry.offset + int(entry.packed * share)))
    assert len(content) == len(DATA)
    begin, end = number * FRAME, min((number + 1) * FRAME, len(DATA))
    assert content[:begin] == DATA[:begin]
    assert content[end:] == DATA[end:]
    # A byte of the header may hold nothing that matters; the content is then what it was.
    try:
        assert content[begin:end] == DATA[begin:end]
    except Damaged as error:
        assert (error.offset, error.size) == (begin, end - begin)


def test_a_checksum_of_the_table_counts() -> None:
    """A whole frame in the place of another of the same sizes is found out by the table."""
    noise = random.Random(3).randbytes(10 * FRAME)
    file = write([noise])
    first, second = table(file)[2], table(file)[5]
    assert first.packed == second.packed
    swapped = bytearray(file)
    swapped[first.offset : first.offset + first.packed] = file[second.offset : second.offset + second.packed]
    content, _, _ = opened(bytes(swapped))
    with pytest.raises(Damaged):
        content[2 * FRAME : 3 * FRAME]
    assert content[: 2 * FRAME] == noise[: 2 * FRAME]


@given(st.lists(st.tuples(st.integers(0, len(FILE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage(changes: list[tuple[int, int]]) -> None:
    file = bytearray(FILE)
    for at, value in changes:
        file[at] = value
    check_hostile(bytes(file))


TABLE_AT = PLACES["in front of the table"]


@given(st.lists(st.tuples(st.integers(TABLE_AT, len(FILE) - 10), st.integers(0, 255)), max_size=4), st.data())
def test_any_table(changes: list[tuple[int, int]], data: st.DataObject) -> None:
    file = bytearray(FILE)
    for at, value in changes:
        file[at] = value
    count = data.draw(st.integers(0, 2**32 - 1) | st.integers(len(table(FILE)) - 2, len(table(FILE)) + 2))
    struct.pack_into("<IB", file, len(file) - 9, count, data.draw(st.integers(0, 255)))
    check_hostile(bytes(file))


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.binary(max_size=40).map(lambda rest: b"\x28\xb5\x2f\xfd" + rest),
            st.binary(max_size=300).map(frame),
            st.tuples(st.integers(0, 15), st.binary(max_size=30)).map(
                lambda found: struct.pack("<II", 0x184D2A50 + found[0], len(found[1])) + found[1]
            ),
            st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2**32 - 1)), max_size=4).map(seek_table),
        ),
        max_size=6,
    ).map(b"".join)
)
def test_any_bytes(file: bytes) -> None:
    check_hostile(file)


def check_hostile(file: bytes) -> None:
    """It is refused, or read as far as it goes; nothing else comes of it, and little memory is taken."""
    try:
        content, _, _ = opened(file)
    except NotADump:
        return
    for at in range(0, min(len(content), 1 << 20), FRAME):
        try:
            assert len(content[at : at + FRAME]) == min(FRAME, len(content) - at)
        except Damaged as error:
            assert 0 <= error.offset < error.offset + error.size <= len(content)
    content.close()


# Bombs.

ZEROS_1_GIB = 1 << 30


def peak_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bomb() -> bytes:
    """A gigabyte of zeros in one frame that says so."""
    out = io.BytesIO()
    with zstandard.ZstdCompressor(level=1).stream_writer(out, size=ZEROS_1_GIB, closefd=False) as writer:
        for _ in range(1024):
            writer.write(bytes(1 << 20))
    return out.getvalue()


def test_a_frame_that_gives_more_than_the_table_says() -> None:
    """It is not decompressed to see that."""
    packed = bomb()
    content = SeekableContent(Bytes(packed + seek_table([(len(packed), 1 << 20)])))
    assert len(content) == 1 << 20

    def read() -> None:
        with pytest.raises(Damaged):
            content[:10]

    assert peak_of(read) < 1 << 20


def test_a_frame_without_a_size_that_gives_more_than_the_table_says() -> None:
    packed = frame(bytes(64 << 20), write_content_size=False)
    content = SeekableContent(Bytes(packed + seek_table([(len(packed), 1 << 20)])))

    def read() -> None:
        with pytest.raises(Damaged):
            content[:10]

    assert peak_of(read) < 4 << 20


def test_a_table_that_says_more_than_any_frame_can_give() -> None:
    packed = frame(bytes(100))
    _, _, defects = opened(packed + seek_table([(len(packed), 1 << 30)]))
    assert "does not fit" in defects[0]


def test_an_entry_of_the_table_is_one_frame() -> None:
    first, second = frame(DATA[:1000]), frame(DATA[1000:2000])
    content = SeekableContent(Bytes(first + second + seek_table([(len(first) + len(second), 1000)])))
    with pytest.raises(Damaged):
        content[:]


@pytest.mark.parametrize("change", ["an entry too few", "an entry too many", "a reserved bit"])
def test_a_table_that_does_not_fit_is_not_believed(change: str) -> None:
    frames = [frame(piece) for piece in PIECES]
    entries = [(len(packed), len(piece)) for packed, piece in zip(frames, PIECES, strict=True)]
    if change == "an entry too few":
        entries = entries[1:]
    elif change == "an entry too many":
        entries.append((10, 10))
    content, _, defects = opened(b"".join(frames) + seek_table(entries, 0x40 if "bit" in change else 0))
    assert content[:] == DATA
    assert len(defects) == 1
    assert "the frames were looked for one by one" in defects[0]


def test_pages_of_zeros_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstd_content, "LARGEST_FRAME", 1 << 10)
    block = b"\1".ljust(128 << 10, b"\0")
    packed = frame(block * 2048)
    before = resident()
    content, _, _ = opened(packed)
    assert content[: len(block)] == block
    assert resident() - before < 64 << 20
    content.close()


def test_zeros_take_no_memory() -> None:
    before = resident()
    content, _, defects = opened(bomb())
    assert (len(content), defects) == (ZEROS_1_GIB, [])
    assert content[500_000_000:500_000_100] == bytes(100)
    assert resident() - before < 64 << 20
    content.close()


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) << 10


def test_a_large_frame_where_memory_is_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  8000000 kB\nMemAvailable:  300000 kB\n")
    monkeypatch.setattr(zstd_unpacked, "MEMINFO", meminfo)
    packed = run(tool("zstd", "apt install zstd"), "-c", data=random.Random(4).randbytes(20 << 20))
    with pytest.raises(NotADump, match=r"not enough of it: unpack it with `zstd -d`"):
        opened(packed)


LARGE = 1 << 18


@pytest.mark.parametrize("block", [0, 1])
def test_damage_in_a_large_frame_is_a_hole(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstd_content, "LARGEST_FRAME", 1 << 10)
    data = bytes(random.Random(5).choices(b"letters of an alphabet", k=4 * LARGE))
    frames = [frame(data[at : at + LARGE]) for at in range(0, len(data), LARGE)]
    second = bytearray(frames[1])
    at = zstandard.frame_header_size(frames[1])
    for _ in range(block):
        at += 3 + (int.from_bytes(second[at : at + 3], "little") >> 3)
    second[at + 3 : at + 11] = b"\xff" * 8
    content, _, defects = opened(b"".join([frames[0], bytes(second), *frames[2:]]))
    assert len(defects) == 1
    assert defects[0].startswith(f"damaged: the frame at offset {len(frames[0]):#x}: ")
    assert content[2 * LARGE :] == data[2 * LARGE :]
    hole = LARGE + block * (128 << 10)
    assert content[:hole] == data[:hole]
    with pytest.raises(Damaged) as caught:
        content[LARGE : 2 * LARGE]
    assert (caught.value.offset, caught.value.size) == (hole, 2 * LARGE - hole)


def test_a_wrong_checksum_of_a_large_frame_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstd_content, "LARGEST_FRAME", 1 << 10)
    packed = frame(DATA, write_checksum=True)
    content, _, defects = opened(flipped(packed, len(packed) - 1))
    assert content[:] == DATA
    assert len(defects) == 1
    assert "checksum" in defects[0]


def test_a_frame_that_wants_more_memory_than_is_given() -> None:
    data = random.Random(6).randbytes(20 << 20)
    packed = run(
        tool("zstd", "apt install zstd"), "-c", "--long=30", "--ultra", "-1", "--no-content-size", data=data
    )
    with pytest.raises(NotADump, match="too much memory"):
        opened(packed)
