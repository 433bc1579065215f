from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memdump.kernel.btf import HEADER, BadBtf, Btf, Kind, size_of

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.dump import Dump
    from tests.lab.guests import Made

SMALL = (
    HEADER.pack(0xEB9F, 1, 0, 24, 0, 72, 72, 21)
    + b"".join(
        word.to_bytes(4, "little")
        for word in (
            *(1, Kind.INT << 24, 4, 1 << 24 | 32),  # 1: int
            *(5, Kind.STRUCT << 24 | 1, 4, 10, 1, 0),  # 2: struct node { int value; }
            *(0, Kind.PTR << 24, 2),  # 3: struct node *
            *(16, Kind.ENUM << 24 | 1, 4, 16, 7),  # 4: enum
        )
    )
    + b"\0int\0node\0value\0seven"[:20]
    + b"\0"
)


@pytest.mark.lab
def test_the_btf_found_is_the_kernels_own(guest: Made, dump: Dump) -> None:
    own = (guest.folder / "btf" / "vmlinux").read_bytes()
    btf = dump.kernel.btf
    assert btf is not None
    start = dump.kernel.symbols.address_of("__start_BTF")
    assert start is not None
    assert dump.image.read(dump.kernel.location.translate(start), len(own)) == own


@pytest.mark.lab
def test_every_type_is_what_bpftool_makes_of_it(guest: Made) -> None:
    if shutil.which("bpftool") is None:
        pytest.skip("bpftool is not installed")
    file = guest.folder / "btf" / "vmlinux"
    btf = Btf(file.read_bytes())
    theirs = bpftool(file)
    assert len(btf) == len(theirs) + 1
    for expected in theirs:
        check(btf, expected)


@pytest.mark.lab
def test_modules_bring_their_own_types(guest: Made, dump: Dump) -> None:
    own = {
        file.name: file.read_bytes() for file in (guest.folder / "btf").iterdir() if file.name != "vmlinux"
    }
    vmlinux = dump.kernel.btf
    assert vmlinux is not None
    expected = sorted(len(Btf(data, base=vmlinux)) for data in own.values())
    assert sorted(len(btf) for btf in dump.kernel.module_btfs) == expected


def bpftool(file: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["bpftool", "btf", "dump", "-j", "file", str(file)], stdout=subprocess.PIPE, check=True
    )
    types: list[dict[str, Any]] = json.loads(done.stdout)["types"]
    return types


def check(btf: Btf, expected: dict[str, Any]) -> None:
    found = btf.type(expected["id"])
    assert found.kind.name == expected["kind"]
    assert found.name == expected["name"].replace("(anon)", "")
    if "size" in expected:
        assert found.size_or_type == expected["size"]
    if "type_id" in expected:
        own = found.words[0] if found.kind is Kind.ARRAY else found.size_or_type
        assert own == expected["type_id"]
    if found.kind in (Kind.STRUCT, Kind.UNION):
        assert list(btf.members(found)) == [
            (m["name"].replace("(anon)", ""), m["type_id"], m["bits_offset"], m.get("bitfield_size", 0))
            for m in expected["members"]
        ]
    if found.kind in (Kind.ENUM, Kind.ENUM64):
        # bpftool shows unsigned values of 32 bits as if they had a sign.
        bits = 32 if found.kind is Kind.ENUM else 64
        own_values = [(name, value % (1 << bits)) for name, value in btf.enumerators(found)]
        assert own_values == [(value["name"], value["val"] % (1 << bits)) for value in expected["values"]]


def test_a_small_btf_is_read() -> None:
    btf = Btf(SMALL)
    assert [(number, found.kind) for number, found in btf.named("node")] == [(2, Kind.STRUCT)]
    assert list(btf.members(btf.type(2))) == [("value", 1, 0, 0)]
    assert list(btf.enumerations_with("seve")) == [4]
    assert list(btf.named("nodes")) == []


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    size_of(data)
    with pytest.raises(BadBtf):
        Btf(data)


@settings(max_examples=300)
@given(st.integers(0, len(SMALL) - 1), st.integers(0, 255))
def test_a_damaged_btf_never_breaks_the_reader(place: int, value: int) -> None:
    data = bytearray(SMALL)
    data[place] = value
    try:
        btf = Btf(bytes(data))
    except BadBtf:
        return
    for number in range(len(btf)):
        try:
            found = btf.type(number)
        except BadBtf:
            continue
        if found.kind in (Kind.STRUCT, Kind.UNION):
            list(btf.members(found))
        if found.kind in (Kind.ENUM, Kind.ENUM64):
            list(btf.enumerators(found))


@given(st.integers(0, len(SMALL) - 1))
def test_a_truncated_btf_is_refused(length: int) -> None:
    with pytest.raises(BadBtf):
        Btf(SMALL[:length])
