"""The guests are what the other tests take them for."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING

from tests.lab import guests, kernels

if TYPE_CHECKING:
    from tests.lab.guests import Made

LINKED_AT = 0xFFFFFFFF81000000
"""Where x86-64 kernels are linked to run: CONFIG_PHYSICAL_START above __START_KERNEL_map."""


def test_a_guest_runs_the_kernel_that_it_is_named_after(guest: Made) -> None:
    recipe = guests.GUESTS[guest.name]
    release = guest.truth["machine"]["uname"][2]
    assert release == kernels.get(recipe.kernel).release
    assert release.startswith(f"{recipe.kernel.removesuffix('x')}")


def test_a_guest_has_the_paging_levels_asked_for(guest: Made) -> None:
    four = guests.GUESTS[guest.name].four_level
    assert guest.truth["machine"]["paging_levels"] == (4 if four else 5)


def test_the_kernel_is_not_where_it_was_linked(guest: Made) -> None:
    symbols = (guest.folder / "kallsyms").read_text()
    address = re.search(r"^([0-9a-f]{16}) T _text$", symbols, re.MULTILINE)
    assert address
    assert int(address[1], 16) > LINKED_AT


def test_both_images_are_there(guest: Made) -> None:
    notes = subprocess.run(
        ["readelf", "-nW", guest.qmp_image], capture_output=True, text=True, check=True
    ).stdout
    assert "VMCOREINFO" in notes
    assert guest.lime_image.open("rb").read(4) == b"EMiL"


def test_nothing_but_the_recorder_moved_from_the_truth_to_the_last_image(guest: Made) -> None:
    after = json.loads((guest.folder / "after.json").read_text())["activity"]
    before = {str(found["pid"]): found for found in guest.truth["processes"] if not found["kernel_thread"]}
    before.pop(str(guest.truth["recorder"]))
    assert after.keys() == before.keys()
    for pid, (state, _, user_time, system_time, threads) in after.items():
        fields = before[pid]["stat"].rpartition(")")[2].split()
        assert [fields[0], fields[11], fields[12], fields[17]] == [state, user_time, system_time, threads], (
            pid
        )
