from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.errors import NotADump
from memdump.machine.kcore_headers import Headers, Segment, direct_map, parse
from memdump.machine.source import Range
from tests.machine.fake_kcore import DIRECT_MAP, PAGE, TEXT, UNKNOWN, VMALLOC, Load, headers

RAM = [Range(0x1000, 0x9E000), Range(0x100000, 0x3FE00000), Range(0x100000000, 0x40000000)]


def parsed(data: bytes) -> Headers:
    return parse(lambda offset, size: data[offset : offset + size])


def loads(base: int = DIRECT_MAP, known: bool = True) -> list[Load]:
    """What a kernel with this direct map writes; with ``known`` false, a kernel before 4.11."""
    others = [Load(0x7000, VMALLOC, UNKNOWN, 1 << 45), Load(0x8000, TEXT, 0x2C00000, 0x2000000)]
    ram = [
        Load(1 << 20 | i << 12, base + found.start, found.start, found.size) for i, found in enumerate(RAM)
    ]
    return [load if known else load._replace(physical=0) for load in others + ram]


@pytest.mark.parametrize("order", ["<", ">"])
def test_segments_and_vmcoreinfo_are_read(order: str) -> None:
    data = headers(loads(), b"OSRELEASE=6.1.0\nPAGESIZE=4096\n" if order == "<" else None, order)
    found = parsed(data)
    assert found.segments[0] == Segment(0x7000, VMALLOC, None, 1 << 45)
    assert found.segments[2] == Segment(0x100000, DIRECT_MAP + 0x1000, 0x1000, 0x9E000)
    assert found.vmcoreinfo == ("OSRELEASE=6.1.0\nPAGESIZE=4096\n" if order == "<" else None)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("base", [DIRECT_MAP, 0xFF11_0000_0000_0000, 0xFFFF_0000_0000_0000 - 0x40000000])
def test_the_direct_map_is_found(base: int, known: bool) -> None:
    segments = direct_map(parsed(headers(loads(base, known))).segments, RAM)
    assert [Range(segment.physical or 0, segment.size) for segment in segments] == RAM
    assert {segment.distance for segment in segments} == {base}


def test_memory_at_physical_address_zero_is_not_taken_for_unknown() -> None:
    data = headers([Load(0x1000, DIRECT_MAP, 0, PAGE), Load(0x9000, DIRECT_MAP + 0x8000, 0x8000, PAGE)])
    segments = direct_map(parsed(data).segments, [Range(0, PAGE), Range(0x8000, PAGE)])
    assert [segment.physical for segment in segments] == [0, 0x8000]


def test_headers_that_disagree_about_the_direct_map_are_refused() -> None:
    moved = loads()
    moved[-1] = moved[-1]._replace(virtual=moved[-1].virtual + PAGE)
    with pytest.raises(NotADump, match="disagree"):
        direct_map(parsed(headers(moved)).segments, RAM)


def test_physical_addresses_outside_system_ram_are_refused() -> None:
    with pytest.raises(NotADump, match="none of its physical addresses"):
        direct_map(parsed(headers(loads())).segments, [Range(1 << 50, PAGE)])


def test_an_old_kernel_whose_ranges_do_not_match_is_refused() -> None:
    with pytest.raises(NotADump, match="do not tell"):
        direct_map(parsed(headers(loads(known=False)[:-1])).segments, RAM)


def test_two_places_that_match_are_refused() -> None:
    twice = loads(known=False) + loads(0xFF11_0000_0000_0000, known=False)
    with pytest.raises(NotADump, match="do not tell"):
        direct_map(parsed(headers(twice)).segments, RAM)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (b"", "not an ELF"),
        (b"\x7fELF", "64-bit"),
        (headers(loads())[:4] + b"\x01" + headers(loads())[5:], "64-bit"),
        (headers(loads())[:16] + b"\x02" + headers(loads())[17:], "core file"),
        (headers(loads())[:200], "cut off"),
        (headers([Load(1 << 63, 0, 0, PAGE)]), "beyond"),
        (headers([Load(0, DIRECT_MAP, UNKNOWN - 1, PAGE)]), "beyond"),
    ],
)
def test_other_files_are_refused_with_the_reason(damage: bytes, words: str) -> None:
    with pytest.raises(NotADump, match=words):
        parsed(damage)


GOOD = headers(loads())


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=30), st.data())
def test_damaged_headers_give_segments_that_hold_together_or_a_clear_error(
    changes: list[tuple[int, int]], draw: st.DataObject
) -> None:
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    cut = draw.draw(st.integers(0, len(GOOD)) | st.just(len(GOOD)))
    try:
        segments = direct_map(parsed(bytes(data[:cut])).segments, RAM)
    except NotADump as error:
        assert "\n" not in str(error)
        return
    assert len({segment.distance for segment in segments}) == 1
    assert [segment.physical for segment in segments] == sorted(segment.physical or 0 for segment in segments)


@given(st.binary(max_size=400).map(lambda tail: b"\x7fELF\x02\x01" + tail))
def test_arbitrary_bytes_behind_the_magic_are_survived(data: bytes) -> None:
    with contextlib.suppress(NotADump):
        parsed(data)


@given(st.binary(max_size=200))
def test_arbitrary_notes_are_survived(notes: bytes) -> None:
    data = bytearray(headers([], None))
    offset = struct.unpack_from("<Q", data, 64 + 8)[0]
    struct.pack_into("<Q", data, 64 + 32, len(notes))
    found = parsed(bytes(data[:offset]) + notes)
    assert found.vmcoreinfo is None or b"VMCOREINFO" in notes
