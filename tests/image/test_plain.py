"""LiME and raw images, ELF cores of writers that are not at hand, and the flattened form."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from memdump.errors import NotADump
from memdump.image.base import MissingMemory
from memdump.machine.source import Range

from . import build
from .build import Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from memdump.image.base import Image

A, B, C = b"A" * 8192, b"B" * 8192, b"C" * 4096
DIRECT = 0xFFFF888000000000


class TestLime:
    def test_ranges_in_any_order(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(build.lime([(0x100000, B), (0x1000, A)]))
        assert image.format == "lime"
        assert image.ranges == (Range(0x1000, 8192), Range(0x100000, 8192))
        assert image.read(0x1FFF, 2) == b"AA"
        assert [(address, bytes(data)) for address, data in image.chunks()] == [(0x1000, A), (0x100000, B)]
        assert image.defects == []

    def test_a_read_over_the_border_of_two_ranges(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(build.lime([(0, A), (8192, B)]))
        assert image.read(8190, 4) == b"AABB"
        assert image.read(0, 16384) == A + B

    def test_the_first_of_overlapping_ranges_is_used(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(build.lime([(4096, B), (0, A)]))
        assert image.read(0, 12288) == b"A" * 4096 + B
        assert image.defects == ["ranges overlap: 4096 bytes are given twice, the first copy is used"]

    @pytest.mark.parametrize("cut", [1, 4096, 8191])
    def test_truncated_in_a_range(self, opened: Callable[[bytes], Image], cut: int) -> None:
        image = opened(build.lime([(0, A), (0x100000, B)])[:-cut])
        assert image.ranges[-1] == Range(0x100000, 8192 - cut)
        assert image.read(0, 8192) == A
        assert image.defects == [f"truncated: the range at physical 0x100000 has {8192 - cut} of 8192 bytes"]
        with pytest.raises(MissingMemory):
            image.read(0x100000, 8192)

    def test_truncated_in_a_header(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(build.lime([(0, A), (0x100000, B)])[: 32 + 8192 + 5])
        assert image.ranges == (Range(0, 8192),)
        assert "truncated" in image.defects[0]

    def test_garbage_between_ranges(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(build.lime([(0, A)]) + b"?" * 40 + build.lime([(0x100000, B)]))
        assert image.ranges == (Range(0, 8192),)
        assert image.defects == ["no range header of LiME version 1 at offset 0x2020; the rest is left out"]

    def test_an_absurd_size_is_cut_to_the_file(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(struct.pack("<IIQQQ", 0x4C694D45, 1, 0, (1 << 60) - 1, 0) + A)
        assert image.ranges == (Range(0, 8192),)
        assert "8192 of 1152921504606846976" in image.defects[0]

    def test_the_top_of_the_address_space(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(build.lime([((1 << 64) - 8192, A)]))
        assert image.read((1 << 64) - 8, 8) == b"A" * 8
        with pytest.raises(MissingMemory):
            image.read((1 << 64) - 4, 8)

    @pytest.mark.parametrize(
        "content",
        [
            b"EMiL",
            build.lime([(0, A)])[:31],
            build.lime([(0, A)])[:32],
            struct.pack("<IIQQQ", 0x4C694D45, 2, 0, 8191, 0) + A,
            struct.pack("<IIQQQ", 0x4C694D45, 1, 8192, 0, 0) + A,
        ],
    )
    def test_without_memory_it_is_refused(self, opened: Callable[[bytes], Image], content: bytes) -> None:
        with pytest.raises(NotADump, match="LiME image but holds no memory"):
            opened(content)


class TestRaw:
    def test_the_file_is_the_memory(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(b"\x53\xff\x00\xf0" * (1 << 19))
        assert (image.format, image.ranges) == ("raw", (Range(0, 2 << 20),))
        assert image.read(4096, 4) == b"\x53\xff\x00\xf0"

    @pytest.mark.parametrize("size", [(1 << 20) - 4096, (1 << 20) + 1, 4096])
    def test_only_if_the_size_may_be_a_memory(self, opened: Callable[[bytes], Image], size: int) -> None:
        with pytest.raises(NotADump, match=f"this has {size}"):
            opened(bytes(size))


class TestElfCore:
    def test_memory_is_at_the_physical_addresses(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(build.elf([Load(0x100000, B, DIRECT + 0x100000), Load(0x1000, A, DIRECT + 0x1000)]))
        assert image.ranges == (Range(0x1000, 8192), Range(0x100000, 8192))
        assert image.read(0x100000, 8) == b"B" * 8

    def test_the_kernel_text_may_be_mapped_twice(self, opened: Callable[[bytes], Image]) -> None:
        loads = [Load(0x1000, A[:4096], 0xFFFFFFFF81000000), Load(0, A, DIRECT)]
        image = opened(build.elf(loads))
        assert image.read(0, 8192) == A
        assert image.defects == []

    def test_kcore_segments_that_are_no_ram_are_left_out(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(
            build.elf([Load((1 << 64) - 1, C, 0xFFFFC90000000000), Load(0x1000, A, DIRECT + 0x1000)])
        )
        assert image.ranges == (Range(0x1000, 8192),)
        assert image.defects == []

    @pytest.mark.parametrize("nowhere", [0, (1 << 64) - 1])
    def test_an_old_kcore_says_no_physical_addresses(
        self, opened: Callable[[bytes], Image], nowhere: int
    ) -> None:
        base = 0xFFFF9A4580000000 // (1 << 30) * (1 << 30)
        vmalloc = Load(nowhere, b"", 0xFFFFB00000000000, 1 << 45)
        loads = [vmalloc, Load(nowhere, A, base + 0x1000), Load(nowhere, B, base + 0x100000)]
        image = opened(build.elf(loads))
        assert image.ranges == (Range(0x1000, 8192), Range(0x100000, 8192))
        assert image.read(0x100000, 8) == b"B" * 8

    def test_the_number_of_headers_may_stand_in_a_section(self, opened: Callable[[bytes], Image]) -> None:
        loads = [Load(number * 8192, C) for number in range(70000)]
        loads[-1] = Load(69999 * 8192, b"D" * 4096)
        image = opened(build.elf([load._replace(data=load.data[:16]) for load in loads], section_count=True))
        assert len(image.ranges) == 70000
        assert image.read(69999 * 8192, 16) == b"D" * 16

    def test_vmcoreinfo_is_found_among_other_notes(self, opened: Callable[[bytes], Image]) -> None:
        notes = build.note(b"CORE", 1, bytes(335)) + build.note(b"VMCOREINFO", 0, b"OSRELEASE=6.1\n")
        assert opened(build.elf([Load(0x1000, A)], notes)).vmcoreinfo == b"OSRELEASE=6.1\n"

    def test_a_note_that_is_cut_off_is_not_believed(self, opened: Callable[[bytes], Image]) -> None:
        notes = build.note(b"VMCOREINFO", 0, b"OSRELEASE=6.1\n" * 40)[:100]
        assert opened(build.elf([Load(0x1000, A)], notes)).vmcoreinfo is None

    def test_a_core_of_virtualbox(self, opened: Callable[[bytes], Image]) -> None:
        # Notes of VirtualBox (DBGFCorefmt.h): NT_VBOXCORE 0xb00 "VBCORE", NT_VBOXCPU 0xb01 "VBCPU".
        notes = build.note(b"VBCORE", 0xB00, bytes(24)) + build.note(b"VBCPU", 0xB01, bytes(1000))
        image = opened(build.elf([Load(0, A), Load(0x100000, B), Load(0xE0000000, C)], notes))
        assert image.ranges == (Range(0, 8192), Range(0x100000, 8192), Range(0xE0000000, 4096))
        assert image.read(0xE0000000, 4) == b"CCCC"

    def test_memory_left_out_is_missing(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(build.elf([Load(0x1000, A, filesz=8192, memsz=1 << 20)]))
        assert image.ranges == (Range(0x1000, 8192),)
        assert image.defects == []

    def test_truncated(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(build.elf([Load(0x1000, A), Load(0x100000, B)])[:-100])
        assert image.ranges == (Range(0x1000, 8192), Range(0x100000, 8092))
        assert image.defects == ["truncated: 100 bytes of 1 segments lie behind the end of the file"]

    def test_an_absurd_size_is_cut_to_the_file(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(build.elf([Load(0x1000, A, filesz=1 << 60)]))
        assert image.ranges == (Range(0x1000, 8192),)
        assert "truncated" in image.defects[0]

    def test_makedumpfile_ran_out_of_disk(self, opened: Callable[[bytes], Image]) -> None:
        assert "incomplete" in opened(build.elf([Load(0x1000, A)], flags=1)).defects[0]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (build.elf([Load(0, A, 0x400000), Load(0, B, 0x7FFF00000000)]), "the core of one process"),
            (build.elf([Load(0x1000, A)], kind=2), "program or library"),
            (build.elf([]), "holds no memory"),
            (build.elf([Load((1 << 64) - 1, A)]), "holds no memory"),
            (build.elf([Load(0x1000, A)])[:40], "truncated inside the ELF header"),
            (build.elf([Load(0x1000, A)])[:70], "0 of 2 program headers"),
            (b"\x7fELF\x09\x01", "damaged"),
            (b"\x7fELF\x09\x01".ljust(64, b"\0"), "damaged"),
        ],
    )
    def test_what_is_no_dump_is_refused(
        self, opened: Callable[[bytes], Image], content: bytes, message: str
    ) -> None:
        with pytest.raises(NotADump, match=message):
            opened(content)

    def test_segments_that_share_their_bytes_are_refused(self, opened: Callable[[bytes], Image]) -> None:
        content = bytearray(build.elf([Load(number << 30, b"") for number in range(1, 100)]) + A)
        for number in range(1, 100):
            struct.pack_into("<QQQQQ", content, 64 + 56 * number + 8, 0, 0, number << 30, len(content), 8192)
        with pytest.raises(NotADump, match="the same bytes more than once"):
            opened(bytes(content))


class TestFlattened:
    CORE = build.elf([Load(0x1000, A), Load(0x100000, B)])

    def test_pieces_in_any_order(self, opened: Callable[[bytes], Image]) -> None:
        pieces = [(at, self.CORE[at : at + 1000]) for at in range(0, len(self.CORE), 1000)]
        image = opened(build.flattened(pieces[::-1]))
        assert (image.format, image.defects) == ("elf", [])
        assert image.read(0x1000, 8192) == A
        assert [(address, bytes(data)) for address, data in image.chunks()] == [(0x1000, A), (0x100000, B)]

    def test_a_later_piece_replaces_an_earlier_one(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(
            build.flattened([(0, bytes(len(self.CORE) - 10)), (0, self.CORE), (len(self.CORE) - 4, b"last")])
        )
        assert image.read(0x100000, 8192) == B[:-4] + b"last"

    def test_a_piece_that_is_nowhere_near_the_others_is_left_out(
        self, opened: Callable[[bytes], Image]
    ) -> None:
        image = opened(build.flattened([(0, self.CORE), (1 << 40, b"far")]))
        assert image.read(0x100000, 8192) == B
        assert "no sense in the piece at offset" in image.defects[0]

    def test_a_gap_reads_as_zeros(self, opened: Callable[[bytes], Image]) -> None:
        core = self.CORE
        image = opened(build.flattened([(0, core[: -8192 - 4096]), (len(core) - 8192, core[-8192:])]))
        assert image.read(0x1000, 8192) == A[:4096] + bytes(4096)

    def test_truncated(self, opened: Callable[[bytes], Image]) -> None:
        image = opened(build.flattened([(0, self.CORE)])[: -16 - 8192])
        assert image.read(0x1000, 8192) == A
        assert "no end mark" in image.defects[0]
        assert image.ranges == (Range(0x1000, 8192),)

    @pytest.mark.parametrize("pieces", [[], [(0, b"nothing")], [(1 << 62, b"far")], [(-5, b"before")]])
    def test_without_a_dump_in_it_is_refused(
        self, opened: Callable[[bytes], Image], pieces: list[build.Piece]
    ) -> None:
        with pytest.raises(NotADump, match="flattened dump"):
            opened(build.flattened(pieces))
