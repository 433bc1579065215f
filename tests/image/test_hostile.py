"""Whatever the bytes, they lead to an image or a `MemdumpError`, and never use up memory."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memdump.errors import MemdumpError
from memdump.image import open_image
from memdump.image.base import MissingMemory

from . import build

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096
MOST_MEMORY = 32 << 20
WORDS = b"many words and " * 1000
PIECES = [(0x1000, WORDS + bytes(range(256)) * 20), (0x8000, WORDS), (0x100000, bytes(300) + WORDS)]
PAGES = {number: (b"%d " % number * PAGE)[:PAGE] for number in [*range(9), 20, 21, 300]}
NOTES = build.note(b"CORE", 1, bytes(100)) + build.note(b"VMCOREINFO", 0, b"OSRELEASE=6.1\n")
CORE = build.elf([build.Load(start, data, 0xFFFF888000000000 + start) for start, data in PIECES], NOTES)
VALID = {
    "lime": build.lime(PIECES),
    "avml": build.avml(PIECES),
    "elf": CORE,
    "elf with a count in a section": build.elf([build.Load(*piece) for piece in PIECES], section_count=True),
    "flattened elf": build.flattened([(at, CORE[at : at + 5000]) for at in range(0, len(CORE), 5000)]),
    "flattened kdump": build.flattened([(0, build.kdump(PAGES))]),
    **{f"kdump {codec}": build.kdump(PAGES, codec, vmcoreinfo=b"OSRELEASE=6.1\n") for codec in build.CODECS},
    "split kdump of 32 bits": build.kdump(PAGES, bits=32, split=(3, 21)),
}
STARTS = [
    b"",
    b"EMiL\1\0\0\0",
    b"AVML\2\0\0\0",
    b"\x7fELF\2\1\1",
    b"\x7fELF\1\2\1",
    b"KDUMP   ",
    b"makedumpfile\0\0\0\0",
]
NUMBERS = [0, 1, 2, 3, 0x7F, 0xFF, 0xFFFF, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 60, 1 << 63, (1 << 64) - 1]

numbers = st.builds(
    lambda number, size, order: (number % (1 << 8 * size)).to_bytes(size, order),
    st.sampled_from(NUMBERS),
    st.sampled_from([4, 8]),
    st.sampled_from(["little", "big"]),
)
edits = st.lists(
    st.tuples(
        st.integers(0, 1 << 20),
        st.one_of(st.binary(min_size=1, max_size=8), numbers),
        st.booleans(),
    ),
    max_size=6,
)


def use(path: Path) -> None:
    """Open the file and read all over it; whatever is wrong must come as one of the two errors."""
    tracemalloc.start()
    try:
        with open_image(path) as image:
            before = 0
            for found in image.ranges:
                assert before <= found.start < found.end <= 1 << 64
                before = found.end
            assert image.size <= 200 * path.stat().st_size
            for place in (0, 0x1FFC, 1 << 63, *(found.end - 3 for found in image.ranges[:50])):
                for size in (0, 8, 5000):
                    try:
                        assert len(image.read(place, size)) == size
                    except MissingMemory as missing:
                        assert place <= missing.address < place + size
            assert sum(len(data) for _, data in image.chunks()) <= image.size
            for line in image.defects:
                assert line
                assert "\n" not in line
    except MemdumpError as error:
        assert str(error).startswith(f"{path}: ")
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < MOST_MEMORY


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "image"


def test_the_valid_files_are_valid(path: Path) -> None:
    for content in VALID.values():
        path.write_bytes(content)
        with open_image(path) as image:
            assert len(image.ranges) >= 2


@pytest.mark.parametrize("name", VALID)
@settings(max_examples=150, deadline=None)
@given(changes=edits, cut=st.one_of(st.none(), st.integers(0, 1 << 20)))
def test_a_valid_file_with_changes(
    path: Path, name: str, changes: list[tuple[int, bytes, bool]], cut: int | None
) -> None:
    content = bytearray(VALID[name])
    for place, data, in_header in changes:
        # Most that can go wrong is said in the first bytes, and in multiples of four.
        at = place % 512 // 4 * 4 if in_header else place % len(content)
        if in_header and name.startswith(("kdump", "split")) and place & 1:
            at += PAGE
        content[at : at + len(data)] = data
    path.write_bytes(content if cut is None else content[: cut % len(content)])
    use(path)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"EMiL\1\0\0\0",
        b"AVML\2\0\0\0",
        b"\x7fELF\2\1\1",
        b"\x7fELF\1\2\1",
        b"KDUMP   ",
        b"makedumpfile\0\0\0\0",
    ],
)
@settings(max_examples=150, deadline=None)
@given(rest=st.binary(max_size=3000), padding=st.sampled_from([0, 4096, 1 << 20]))
def test_any_bytes(path: Path, start: bytes, rest: bytes, padding: int) -> None:
    path.write_bytes((start + rest).ljust(padding, b"\0"))
    use(path)


@pytest.mark.parametrize("name", VALID)
def test_every_short_truncation(path: Path, name: str) -> None:
    content = VALID[name]
    for size in [*range(1, 300), *range(4090, 4200), *range(300, len(content), 997), len(content) - 1]:
        path.write_bytes(content[: min(size, len(content) - 1)])
        use(path)
