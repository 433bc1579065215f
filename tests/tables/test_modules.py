from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.tables.modules import description

if TYPE_CHECKING:
    from memdump.dump import Dump
    from tests.lab.guests import Made


@pytest.mark.lab
def test_modules_are_those_of_proc_in_its_order(guest: Made, dump: Dump) -> None:
    assert [
        (row.name, row.size, row.references, row.used_by, row.state, row.address, row.taints)
        for row in dump.table("modules")
    ] == [
        (
            found["name"],
            found["size"],
            found["references"],
            ",".join(user for user in found["used_by"] if user != "[permanent]"),
            found["state"],
            found["address"],
            found["taints"],
        )
        for found in guest.truth["modules"]
    ]


@pytest.mark.lab
def test_build_ids_and_versions_are_those_of_sysfs(guest: Made, dump: Dump) -> None:
    assert {row.name: (row.build_id, row.version) for row in dump.table("modules")} == {
        found["name"]: (found["build_id"], found["version"]) for found in guest.truth["modules"]
    }
    assert all(row.build_id for row in dump.table("modules"))


def test_a_note_gives_its_description() -> None:
    note = struct.pack("<III4s", 4, 3, 3, b"GNU\0") + b"\1\2\3" + bytes(5)
    assert description(note) == "010203"


@pytest.mark.parametrize("note", [b"", b"\4\0\0\0", struct.pack("<III4s", 4, 20, 3, b"GNU\0")])
def test_a_note_that_is_cut_off_is_refused(note: bytes) -> None:
    with pytest.raises(ValueError, match="longer"):
        description(note)


@given(st.binary(max_size=64))
def test_any_note_is_read_or_refused(note: bytes) -> None:
    try:
        assert bytes.fromhex(description(note)) in note
    except ValueError as error:
        assert "longer" in str(error)
