from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from memdump.dump import Dump
    from tests.lab.guests import Made

LINKED_AT = 0xFFFFFFFF81000000
"""Documentation/arch/x86/x86_64/mm.rst: where the kernel's text is mapped without KASLR."""
TAINTS = "PFSRMBUDAWCIOELKXTN"
"""Documentation/admin-guide/tainted-kernels.rst, from bit 0 on."""


def row_of(dump: Dump) -> Any:
    (row,) = dump.table("system")
    return row


@pytest.mark.lab
def test_the_kernel_is_the_one_of_uname(guest: Made, dump: Dump) -> None:
    row = row_of(dump)
    _, name, release, version, machine = guest.truth["machine"]["uname"]
    assert (row.hostname, row.kernel_release, row.kernel_version, row.architecture) == (
        name,
        release,
        version,
        machine,
    )


@pytest.mark.lab
def test_the_build_id_is_that_of_sysfs(guest: Made, dump: Dump) -> None:
    notes = bytes.fromhex(guest.truth["machine"]["kernel_notes"])
    header = bytes.fromhex("04000000 14000000 03000000 474e5500")  # elf(5): GNU, 20 bytes, NT_GNU_BUILD_ID
    start = notes.index(header) + len(header)
    assert row_of(dump).build_id == notes[start : start + 20].hex()


@pytest.mark.lab
def test_the_command_line_is_that_of_proc(guest: Made, dump: Dump) -> None:
    assert row_of(dump).command_line == guest.truth["machine"]["cmdline"].removesuffix("\n")


@pytest.mark.lab
def test_cpus_and_memory_are_those_of_proc(guest: Made, dump: Dump) -> None:
    row, machine = row_of(dump), guest.truth["machine"]
    models = re.findall(r"^model name\s*: (.*)$", machine["cpuinfo"], re.MULTILINE)
    (total,) = re.findall(r"^MemTotal: +(\d+) kB$", machine["meminfo"], re.MULTILINE)
    assert row.cpus == len(models)
    assert row.cpu_model == models[0]
    assert row.memory == int(total) * 1024


@pytest.mark.lab
def test_paging_and_kaslr_are_what_the_kernel_says(guest: Made, dump: Dump) -> None:
    row, machine = row_of(dump), guest.truth["machine"]
    (text,) = re.findall(r"^([0-9a-f]+) T _text$", (guest.folder / "kallsyms").read_text(), re.MULTILINE)
    assert row.paging_levels == machine["paging_levels"]
    assert row.kaslr_offset == int(text, 16) - LINKED_AT


@pytest.mark.lab
def test_times_are_those_of_the_clock(guest: Made, dump: Dump) -> None:
    row, clock = row_of(dump), guest.truth["clock"]
    after = json.loads((guest.folder / "after.json").read_text())["clock"]
    assert abs(row.boot_time.timestamp() - clock["btime"]) <= 1
    # The kernel keeps time from tick to tick; an idle one may not have ticked for some seconds.
    assert clock["realtime_ns"] / 1e9 - 5 <= row.image_time.timestamp() <= after["realtime_ns"] / 1e9


@pytest.mark.lab
def test_taint_is_the_number_of_proc_in_letters(guest: Made, dump: Dump) -> None:
    number = int(guest.truth["machine"]["sysctl"]["kernel/tainted"])
    assert row_of(dump).taint == "".join(letter for bit, letter in enumerate(TAINTS) if number >> bit & 1)
