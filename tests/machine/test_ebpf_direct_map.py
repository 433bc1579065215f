"""Where the direct map is: candidates, and what proves one."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.errors import NotADump
from memdump.machine import direct_map, host
from memdump.machine.direct_map import GRAIN, Places, find, near
from memdump.machine.source import Range

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
BASE = 0xFF11_0000_0000_0000 + 77 * GIB
RAM = [Range(0x1000, 0x9E000), Range(0x100000, 0xBFE00000), Range(4 * GIB, 5 * GIB)]
TASK = 6 * GIB + 0x123440
BANNER = b"Linux version 6.1.0 (root@builder) (gcc 12) #1 SMP\n"
RODATA = 0x13800000
IOMEM = """\
00001000-0009efff : System RAM
00100000-bfefffff : System RAM
  12800000-13601d31 : Kernel code
  13800000-139fffff : Kernel rodata
100000000-23fffffff : System RAM
"""


class Machine:
    """9 GiB of memory that is empty but for what is put there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content = {RODATA + 0xFFFF0: BANNER + b"\0"}
        self.base = BASE
        self.reads: list[int] = []
        self.own_frame = 0
        """Number of the page frame that the page of this process stands in; 0 where nobody says."""
        (folder / "iomem").write_text(IOMEM)
        (folder / "version").write_bytes(BANNER)

    def read(self, address: int, size: int) -> bytes | None:
        self.reads.append(address)
        physical = address - self.base
        if not any(found.start <= physical and physical + size <= found.end for found in RAM):
            return None
        data = bytearray(size)
        for start, piece in self.content.items():
            first, last = max(start, physical), min(start + len(piece), physical + size)
            if first < last:
                data[first - physical : last - physical] = piece[first - start : last - start]
        return bytes(data)

    @property
    def places(self) -> Places:
        names = ("iomem", "kallsyms", "version", "pagemap")
        return Places(*(str(self.folder / name) for name in names))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def paged(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The machine knows where the page of this process is: pagemap says it, and the mark stands there."""
    mark = os.urandom(32)
    machine.own_frame = 0x1A2B3
    machine.content[machine.own_frame * host.PAGE_SIZE] = mark
    monkeypatch.setattr(os, "urandom", lambda size: mark[:size])
    (machine.folder / "pagemap").write_bytes(b"")

    def entry(file: int, size: int, offset: int) -> bytes:
        assert size == 8
        assert offset % 8 == 0
        return struct.pack("=Q", machine.own_frame | 1 << 63 | 1 << 55)

    monkeypatch.setattr(os, "pread", entry)
    return machine


def test_candidates_are_those_at_which_the_task_lies_in_memory() -> None:
    # 9 GiB of addresses, of which the fourth is no memory, and the task is 0x123440 into its GiB.
    assert list(near(BASE + TASK, RAM)) == [BASE + k * GIB for k in (-2, -1, 0, 1, 2, 4, 5, 6)]


@given(
    st.lists(st.tuples(st.integers(0, 64 * GIB), st.integers(1, 9 * GIB)), min_size=1, max_size=5),
    st.integers(0, (1 << 64) - 1),
    st.data(),
)
def test_the_true_distance_is_among_the_candidates_of_any_machine(
    spans: list[tuple[int, int]], base: int, data: st.DataObject
) -> None:
    ram, end = [], 0
    for gap, size in spans:
        ram.append(Range(end + gap, size))
        end += gap + size
    base = min(base, (1 << 64) - end) // GRAIN * GRAIN
    home = data.draw(st.sampled_from(ram))
    task = base + data.draw(st.integers(home.start, home.end - 1))
    found = list(near(task, ram))
    assert base in found
    assert found == sorted(set(found))
    assert all(distance % GRAIN == 0 for distance in found)
    assert all(any(each.start <= task - distance < each.end for each in ram) for distance in found)


def test_with_pages_of_64_kib_the_steps_are_half_as_long(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.base = BASE + GIB // 2
    with pytest.raises(NotADump):
        find(machine.read, machine.base + TASK, RAM, machine.places)
    monkeypatch.setattr(direct_map, "GRAIN", direct_map.grain(64 << 10))
    assert find(machine.read, machine.base + TASK, RAM, machine.places).distance == machine.base


def test_the_banner_proves_the_distance(machine: Machine) -> None:
    found = find(machine.read, BASE + TASK, RAM, machine.places)
    assert found.distance == BASE
    assert found.evidence == (
        "the address of the running task, proved by the kernel's banner at the addresses that iomem gives"
    )


def test_a_page_of_our_own_proves_it_better(paged: Machine) -> None:
    found = find(paged.read, BASE + TASK, RAM, paged.places)
    assert found.distance == BASE
    assert found.evidence == (
        "the address of the running task, proved by a page of our own at the address that pagemap gives"
        " and the kernel's banner at the addresses that iomem gives"
    )
    assert max(paged.reads) < BASE + RAM[-1].end, "nothing beyond the direct map may be touched"


def test_a_page_of_our_own_is_enough(paged: Machine) -> None:
    del paged.content[RODATA + 0xFFFF0]
    found = find(paged.read, BASE + TASK, RAM, paged.places)
    assert found.distance == BASE
    assert "banner" not in found.evidence


def test_a_page_that_moves_meanwhile_is_looked_for_again(paged: Machine) -> None:
    place = paged.own_frame * host.PAGE_SIZE
    mark = paged.content[place]

    def read(address: int, size: int) -> bytes | None:
        if paged.own_frame == 0x1A2B3 and address == BASE + place:
            paged.content[0x20000 * host.PAGE_SIZE] = paged.content.pop(place)
            paged.own_frame = 0x20000
        return paged.read(address, size)

    assert find(read, BASE + TASK, RAM, paged.places).distance == BASE
    assert mark in paged.content.values()


def test_where_our_page_is_not_found_a_banner_alone_is_no_proof(paged: Machine) -> None:
    del paged.content[paged.own_frame * host.PAGE_SIZE]
    with pytest.raises(NotADump, match="no address can be trusted"):
        find(paged.read, BASE + TASK, RAM, paged.places)


def test_two_places_with_the_banner_are_no_proof(machine: Machine) -> None:
    machine.content[RODATA + GIB] = BANNER + b"\0"
    with pytest.raises(NotADump):
        find(machine.read, BASE + TASK, RAM, machine.places)


@pytest.mark.parametrize("copy", [BANNER[:-1] + b"\0", BANNER + b"x", BANNER[1:] + b"\0"])
def test_copies_of_the_banner_in_logs_do_not_count(machine: Machine, copy: bytes) -> None:
    machine.content[RODATA + GIB] = copy
    assert find(machine.read, BASE + TASK, RAM, machine.places).distance == BASE
    machine.content[RODATA + 0xFFFF0] = copy
    with pytest.raises(NotADump):
        find(machine.read, BASE + TASK, RAM, machine.places)


@pytest.mark.parametrize("offset", [0, 0xFFFF0, 0x100000 - len(BANNER), 0x100000, 0x200000 - len(BANNER) - 1])
def test_the_banner_is_found_wherever_it_stands(machine: Machine, offset: int) -> None:
    machine.content = {RODATA + offset: BANNER + b"\0"}
    assert find(machine.read, BASE + TASK, RAM, machine.places).distance == BASE


def test_the_banner_is_found_behind_the_code_where_constants_have_no_entry(machine: Machine) -> None:
    (machine.folder / "iomem").write_text("  12800000-13601d31 : Kernel code\n")
    machine.content = {0x13600000: BANNER + b"\0"}
    assert find(machine.read, BASE + TASK, RAM, machine.places).distance == BASE


@pytest.mark.parametrize("text", ["", "Windows\n"])
def test_without_anything_to_prove_it_by_it_is_not_found(machine: Machine, text: str) -> None:
    (machine.folder / "version").write_text(text)
    with pytest.raises(NotADump):
        find(machine.read, BASE + TASK, RAM, machine.places)


OFF_GRAIN = 0xFFFF_8880_0000_0000 + 0x200000
NAMED = "ffffffff81000000 T _stext\nffffffff82b3c0a0 D page_offset_base\nffffffff82b3c0a8 D vmalloc_base\n"


@pytest.mark.parametrize("paging", [True, False])
def test_kallsyms_tells_where_no_step_leads(paged: Machine, paging: bool) -> None:
    paged.own_frame *= paging
    paged.base = OFF_GRAIN
    (paged.folder / "kallsyms").write_text(NAMED)
    kept = {0xFFFF_FFFF_82B3_C0A0: struct.pack("=Q", OFF_GRAIN)}

    def read(address: int, size: int) -> bytes | None:
        return kept[address] if address in kept else paged.read(address, size)

    found = find(read, OFF_GRAIN + TASK, RAM, paged.places)
    assert found.distance == OFF_GRAIN
    assert found.evidence.startswith("page_offset_base of kallsyms, proved by ")
    kept[0xFFFF_FFFF_82B3_C0A0] = struct.pack("=Q", OFF_GRAIN + GIB)
    with pytest.raises(NotADump):
        find(read, OFF_GRAIN + TASK, RAM, paged.places)


@pytest.mark.parametrize(
    "kallsyms",
    [
        None,
        "",
        "0000000000000000 D page_offset_base\n",
        "x D page_offset_base\n",
        "ffffffff81000000 T _stext\n",
    ],
)
def test_hidden_symbols_are_no_help_and_no_harm(machine: Machine, kallsyms: str | None) -> None:
    machine.base = OFF_GRAIN
    if kallsyms is not None:
        (machine.folder / "kallsyms").write_text(kallsyms)
    with pytest.raises(NotADump):
        find(machine.read, OFF_GRAIN + TASK, RAM, machine.places)
    assert 0 not in machine.reads
    machine.base = BASE
    assert find(machine.read, BASE + TASK, RAM, machine.places).distance == BASE
