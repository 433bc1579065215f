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
    theirs = sorted(
        (int(line[0], 16), line[2])
        for line in lines
        if len(line) == 4 and line[3] not in ("[bpf]", "[__builtin__ftrace]")
    )
    assert sorted((symbol.address, symbol.name) for symbol in dump.kernel.module_symbols) == theirs


def table(names: list[str], layout: str) -> bytes:
    """A kernel image with kallsyms as ``scripts/kallsyms.c`` of that release lays it out."""
    ordered = ["_text", *names]
    addresses = [TEXT + 16 * number for number in range(len(ordered))]
    coded = [code("T" + name) for name in ordered]
    markers = [sum(map(len, coded[:number])) for number in range(0, len(ordered), 256)]
    starts = [sum(len(token) + 1 for token in TOKENS[:number]) for number in range(256)]
    base = struct.pack("<Q", TEXT)
    percpu = words("i", [TEXT - 1 - address for address in addresses])
    relative = words("I", [address - TEXT for address in addresses])
    sequences = bytes(3 * len(ordered))
    lists = [words("I", [len(ordered)]), b"".join(coded), words("I", markers)]
    tokens = [b"".join(token + b"\0" for token in TOKENS), words("H", starts)]
    if layout == "7.0":
        image = padded([b"\xcc" * 4096, *lists, *tokens])
        places = range(TEXT + len(image), TEXT + len(image) + 4 * len(ordered), 4)
        offsets = [address - place for address, place in zip(addresses, places, strict=True)]
        return padded([image, words("i", offsets), sequences, b"\xcc" * 4096])
    parts = {
        "5.10": [percpu, base, *lists, *tokens],
        "5.10 absolute": [words("Q", addresses), *lists, *tokens],
        "6.2": [percpu, base, *lists, sequences, *tokens],
        "6.4": [*lists, *tokens, relative, base, sequences],
    }
    return padded([b"\xcc" * 4096, *parts[layout], b"\xcc" * 4096])


def words(format_: str, values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}{format_}", *values)


def padded(parts: list[bytes]) -> bytes:
    return b"".join(part + bytes(-len(part) % 8) for part in parts)


def code(name: str) -> bytes:
    """A name as its tokens, which are its letters, behind their number."""
    length = len(name)
    return bytes([length] if length < 128 else [length & 127 | 128, length >> 7]) + name.encode()


def some_names(count: int) -> list[str]:
    return [f"symbol_number_{number}" for number in range(count)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_understood(layout: str) -> None:
    names = [*some_names(1000), "n" * 200]
    found = find_symbols(table(names, layout), TEXT)
    assert found is not None
    assert [(symbol.name, symbol.address) for symbol in found] == [
        (name, TEXT + 16 * number) for number, name in enumerate(["_text", *names])
    ]


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "7.0"])
def test_a_table_that_disagrees_with_the_page_tables_is_refused(layout: str) -> None:
    assert find_symbols(table(some_names(1000), layout), TEXT + 0x200000) is None


WHOLE = table(some_names(600), "6.4")


@settings(max_examples=100, deadline=None)
@given(st.integers(4096, len(WHOLE) - 1), st.binary(min_size=1, max_size=64))
def test_a_damaged_table_never_breaks_the_reader(place: int, damage: bytes) -> None:
    data = WHOLE[:place] + damage + WHOLE[place + len(damage) :]
    found = find_symbols(data, TEXT)
    if found is not None:
        assert len(list(found)) == len(found)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(WHOLE)))
def test_a_truncated_table_never_breaks_the_reader(length: int) -> None:
    find_symbols(WHOLE[:length], TEXT)
