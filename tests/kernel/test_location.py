from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memdump.kernel.location import LARGE_PAGE, LOW_MEMORY, START_KERNEL_MAP, find_kernel
from memdump.kernel.vmcoreinfo import VmcoreInfo
from tests.kernel.images import Altered, BytesImage

if TYPE_CHECKING:
    from memdump.dump import Dump
    from tests.lab.guests import Made

LOW_ZEROS = {address: bytes(1 << 16) for address in range(0, LOW_MEMORY, 1 << 16)}
PRESENT, LARGE = 1, 1 << 7


def text_address(guest: Made) -> int:
    lines = (guest.folder / "kallsyms").read_text().splitlines()
    return next(int(line.split()[0], 16) for line in lines if line.endswith(" T _text"))


def kernel_code(guest: Made) -> int:
    """The physical address of ``Kernel code`` in /proc/iomem."""
    line = next(
        line for line in guest.truth["machine"]["iomem"].splitlines() if line.endswith(": Kernel code")
    )
    return int(line.strip().split("-")[0], 16)


@pytest.mark.lab
def test_the_kernel_is_where_iomem_and_kallsyms_say(guest: Made, dump: Dump) -> None:
    location = find_kernel(Altered(dump.image, {}))
    assert location is not None
    assert location.virtual == text_address(guest)
    assert location.physical == kernel_code(guest)
    assert location.levels == guest.truth["machine"]["paging_levels"]


@pytest.mark.lab
def test_without_its_page_directory_the_kernel_is_found_by_vmcoreinfo(guest: Made, dump: Dump) -> None:
    image = Altered(dump.image, LOW_ZEROS)
    location = find_kernel(image)
    assert location is not None
    assert location.found_by == "a VMCOREINFO page"
    assert location.physical == kernel_code(guest)


@pytest.mark.lab
def test_a_stale_vmcoreinfo_is_rejected(guest: Made, dump: Dump) -> None:
    """One of an earlier boot names another KASLR offset; it stands in memory before the good one."""
    stale = dump.kernel.vmcoreinfo
    moved = VmcoreInfo(stale).number("phys_base")
    assert moved is not None
    stale = stale.replace(b"NUMBER(phys_base)=%d\n" % moved, b"NUMBER(phys_base)=%d\n" % (moved + LARGE_PAGE))
    image = Altered(dump.image, LOW_ZEROS | {0x10000: stale.ljust(4096, b"\0")})
    image.vmcoreinfo = stale
    location = find_kernel(image)
    assert location is not None
    assert location.physical == kernel_code(guest)


def tables(pages: int = 8, levels: int = 4) -> dict[int, bytes]:
    """A kernel of so many large pages at 16 MiB, mapped by a page directory in low memory."""
    middle = [0] * 512
    for page in range(pages):
        middle[8 + page] = (16 << 20) + page * LARGE_PAGE | LARGE | PRESENT
    memory = {0x90000: {511: 0x91000}, 0x91000: {511: 0x92000}, 0x92000: {510: 0x93000}}
    if levels == 4:
        memory = {0x90000: {511: 0x92000}, 0x92000: {510: 0x93000}}
    found = {
        address: table({at: to | PRESENT for at, to in entries.items()})
        for address, entries in memory.items()
    }
    return found | {0x93000: table(dict(enumerate(middle))), 16 << 20: bytes(pages * LARGE_PAGE)}


def table(entries: dict[int, int]) -> bytes:
    return b"".join(entries.get(at, 0).to_bytes(8, "little") for at in range(512))


@pytest.mark.parametrize("levels", [4, 5])
def test_page_tables_alone_tell_where_the_kernel_is(levels: int) -> None:
    location = find_kernel(BytesImage(tables(levels=levels)))
    assert location is not None
    assert (location.virtual, location.physical) == (START_KERNEL_MAP + 8 * LARGE_PAGE, 16 << 20)
    assert location.levels == levels


def test_an_absurdly_large_kernel_is_not_believed() -> None:
    memory = tables()
    memory[0x93000] = table({at: (16 << 20) + at * LARGE_PAGE | LARGE | PRESENT for at in range(512)})
    assert find_kernel(BytesImage(memory)) is None


def test_memory_without_a_kernel_holds_none() -> None:
    assert find_kernel(BytesImage({0: bytes(1 << 20)})) is None


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.integers(0, 511), st.integers(0, (1 << 64) - 1), max_size=8), st.integers(0x90, 0x93)
)
def test_page_tables_of_any_kind_end(entries: dict[int, int], page: int) -> None:
    find_kernel(BytesImage(tables() | {page << 12: table(entries)}))


def test_page_tables_that_point_to_themselves_end() -> None:
    find_kernel(BytesImage({0x90000: table(dict.fromkeys(range(512), 0x90000 | PRESENT))}))


@given(st.binary(max_size=300))
def test_any_vmcoreinfo_is_read_or_passed_over(text: bytes) -> None:
    info = VmcoreInfo(b"OSRELEASE=1\nPAGESIZE=4096\n" + text)
    assert info
    info.number("phys_base"), info.symbol("_stext"), info.build_id
    find_kernel(BytesImage({0: bytes(4096)}, vmcoreinfo=info.text))
