from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.errors import MemdumpError, NotADump, NotPermitted
from memdump.machine import iomem
from memdump.machine.source import Range
from tests.machine.fake_kcore import IOMEM, PAGE


def test_only_system_ram_counts_and_it_is_cut_down_to_whole_pages() -> None:
    assert iomem.parse(IOMEM, PAGE) == [Range(0x1000, 0x27000), Range(0x100000, 0x300000)]


def test_memory_that_a_driver_added_inside_its_device_counts() -> None:
    text = "100000000-1ffffffff : virtio0\n  108000000-10fffffff : System RAM (virtio_mem)\n"
    assert iomem.parse(text, PAGE) == [Range(0x108000000, 0x8000000)]


def test_a_device_with_a_similar_name_is_not_memory() -> None:
    text = "00001000-00001fff : System RAM\n00002000-00002fff : System RAM disk\n"
    assert iomem.parse(text, PAGE) == [Range(0x1000, 0x1000)]


def test_larger_pages_cut_off_more() -> None:
    assert iomem.parse("00001000-0003ffff : System RAM\n", 65536) == [Range(0x10000, 0x30000)]


def test_hidden_addresses_say_what_permits_them() -> None:
    hidden = "00000000-00000000 : System RAM\n00000000-00000000 : System RAM\n"
    with pytest.raises(NotPermitted, match="CAP_SYS_ADMIN"):
        iomem.parse(hidden, PAGE)


def test_no_memory_at_all_is_an_error() -> None:
    with pytest.raises(MemdumpError, match="no system RAM"):
        iomem.parse("00000000-00000fff : Reserved\n", PAGE)


def test_a_range_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(NotADump, match="ends before it starts"):
        iomem.parse("00002000-00001fff : System RAM\n", PAGE)


def test_ranges_that_overlap_are_taken_once() -> None:
    text = "00000000-00003fff : System RAM\n00002000-00005fff : System RAM\n"
    assert iomem.parse(text, PAGE) == [Range(0, 0x4000), Range(0x4000, 0x2000)]


def test_a_missing_file_says_what_to_do(tmp_path: object) -> None:
    with pytest.raises(NotPermitted, match="run as root"):
        iomem.read(f"{tmp_path}/iomem")


lines = st.one_of(
    st.text(max_size=40),
    st.builds(
        "{}{:x}-{:x} : {}".format,
        st.sampled_from(["", "  ", "\t"]),
        st.integers(0, 1 << 70),
        st.integers(0, 1 << 70),
        st.sampled_from(["System RAM", "System RAM (kmem)", "Reserved", "System RAMble"]),
    ),
)


@given(st.lists(lines).map("\n".join))
def test_any_text_gives_clean_ranges_or_a_clear_error(text: str) -> None:
    try:
        ranges = iomem.parse(text, PAGE)
    except MemdumpError as error:
        assert "\n" not in str(error)
        return
    behind = 0
    for found in ranges:
        assert found.start >= behind
        assert found.start % PAGE == found.size % PAGE == 0 < found.size
        behind = found.end


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1))
def test_every_page_of_system_ram_and_no_other_is_in_a_range(runs: list[tuple[int, int]]) -> None:
    pages = {page for start, count in runs for page in range(start, start + count)}
    text = "".join(f"{s * PAGE:08x}-{(s + n) * PAGE - 1:08x} : System RAM\n" for s, n in runs)
    ranges = iomem.parse(text, PAGE)
    assert [a for found in ranges for a in range(found.start, found.end, PAGE)] == [
        p * PAGE for p in sorted(pages)
    ]
