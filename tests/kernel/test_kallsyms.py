from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memdump.kernel.kallsyms import find_symbols

if TYPE_CHECKING:
    from memdump.dump import Dump
    from tests.lab.guests import Made

TEXT = 0xFFFFFFFF81000000
LAYOUTS = ("5.10", "5.10 absolute", "6.2", "6.4", "7.0")
TOKENS = [bytes([code]) for code in range(1, 256)]
TOKENS = [b"\x80"] + [token if token < b"\x7f" else b"tok%d" % token[0] for token in TOKENS]


@pytest.mark.lab
def test_symbols_are_those_of_proc_kallsyms(guest: Made, dump: Dump) -> None:
    lines = [line.split() for line in (guest.folder / "kallsyms").read_text().splitlines()]
    theirs = sorted((int(line[0], 16), line[1], line[2]) for line in lines if len(line) == 3)
    assert sorted((symbol.address, symbol.kind, symbol.name) for symbol in dump.kernel.symbols) == theirs


@pytest.mark.lab
def test_symbols_of_modules_are_those_of_proc_kallsyms(guest: Made, dump: Dump) -> None:
    lines = [line.split() for line in (guest.folder / "kallsyms").read_text().splitlines()]
    theirs = sorted((int(line[0], 16), line[2]) for line in lines if len(line) == 4 and line[3] not in ("[bpf]", "[__builtin__ftrace]"))
    assert sorted((symbol.address, symbol.name) for symbol in dump.kernel.module_symbols) == theirs


def table(names: list[str], layout: str) -> bytes:
    """A kernel image with kallsyms as ``scripts/kallsyms.c`` of that release lays it out."""
    ordered = ["_text", *names]
    addresses = [TEXT + 16 * number for number in range(len(ordered))]
    names_bytes, markers = b"", []
    for number, name in enumerate(ordered):
        if number % 256 == 0:
            markers.append(len(names_bytes))
        coded = bytes([ord("T"), *(ord(letter) for letter in name)])
        names_bytes += (bytes([len(coded)]) if len(coded) < 128 else bytes([len(coded) & 127 | 128, len(coded) >> 7])) + coded
    token_table = b"".join(token + b"\0" for token in TOKENS)
    starts, at = [], 0
    for token in TOKENS:
        starts.append(at)
        at += len(token) + 1
    sequences = bytes(3 * len(ordered))
    base = struct.pack("<Q", TEXT)
    offsets = struct.pack(f"<{len(ordered)}i", *(TEXT - 1 - address for address in addresses))
    plain_offsets = struct.pack(f"<{len(ordered)}I", *(address - TEXT for address in addresses))
    number = struct.pack("<I", len(ordered))
    image = b"\xcc" * 4096
    lists = [number, names_bytes, struct.pack(f"<{len(markers)}I", *markers)]
    index = struct.pack("<256H", *starts)
    if layout == "5.10":
        parts = [offsets, base, *lists, token_table, index]
    elif layout == "5.10 absolute":
        parts = [struct.pack(f"<{len(ordered)}Q", *addresses), *lists, token_table, index]
    elif layout == "6.2":
        parts = [offsets, base, *lists, sequences, token_table, index]
    elif layout == "6.4":
        parts = [*lists, token_table, index, plain_offsets, base, sequences]
    else:
        parts = [*lists, token_table, index]
        for part in parts:
            image += part + bytes(-len(part) % 8)
        places = [TEXT + len(image) + 4 * number for number in range(len(ordered))]
        parts, image = [], image + struct.pack(
            f"<{len(ordered)}i", *(address - place for address, place in zip(addresses, places, strict=True))
        )
    for part in parts:
        image += part + bytes(-len(part) % 8)
    return image + b"\xcc" * 4096


def some_names(count: int) -> list[str]:
    return [f"symbol_number_{number}" for number in range(count)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_understood(layout: str) -> None:
    names = [*some_names(1000), "n" * 200]
    found = find_symbols(table(names, layout), TEXT, TEXT)
    assert found is not None
    assert [(symbol.name, symbol.address) for symbol in found] == [
        (name, TEXT + 16 * number) for number, name in enumerate(["_text", *names])
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_table_that_disagrees_with_the_page_tables_is_refused(layout: str) -> None:
    assert find_symbols(table(some_names(1000), layout), TEXT, TEXT + 0x200000) is None


WHOLE = table(some_names(600), "6.4")


@settings(max_examples=100, deadline=None)
@given(st.integers(4096, len(WHOLE) - 1), st.binary(min_size=1, max_size=64))
def test_a_damaged_table_never_breaks_the_reader(place: int, damage: bytes) -> None:
    data = WHOLE[:place] + damage + WHOLE[place + len(damage) :]
    found = find_symbols(data, TEXT, TEXT)
    if found is not None:
        assert len(list(found)) == len(found)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(WHOLE)))
def test_a_truncated_table_never_breaks_the_reader(length: int) -> None:
    find_symbols(WHOLE[:length], TEXT, TEXT)
