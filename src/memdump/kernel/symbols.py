"""Symbols: names and addresses in flat arrays that can be looked up in place.

The arrays are what the cache stores, so that a second open neither decodes nor sorts anything.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONGEST_SYMBOL = 0x10000
"""kallsyms has no sizes: a symbol ends where the next begins, but a gap in the address space is no symbol."""


class Symbol(NamedTuple):
    """A symbol; ``kind`` is the letter that nm(1) would show."""

    name: str
    address: int
    kind: str
    size: int


def hash_index(names: Iterable[tuple[bytes, int]]) -> array[int]:
    """A sorted array of ``crc32(name) << 32 | value``, to be looked up with `hash_lookup`."""
    crc32 = zlib.crc32
    return array("Q", sorted([crc32(name) << 32 | value for name, value in names]))


def hash_lookup(index: memoryview | array[int], name: bytes) -> list[int]:
    """The values that may belong to ``name``; the caller compares the names, since hashes collide."""
    key = zlib.crc32(name)
    at = bisect_left(index, key << 32)
    found = []
    while at < len(index) and index[at] >> 32 == key:
        found.append(index[at] & 0xFFFFFFFF)
        at += 1
    return found


class SymbolTable:
    """Symbols in ascending order of address.

    ``addresses`` has an entry per symbol, ``starts`` one more: where each name begins in ``names``, where
    each symbol stands as its kind letter and its name.
    """

    def __init__(
        self,
        addresses: memoryview | array[int],
        starts: memoryview | array[int],
        names: bytes | memoryview,
        index: memoryview | array[int],
    ) -> None:
        self.addresses = addresses
        self.starts = starts
        self.names = names
        self.index = index

    @classmethod
    def build(cls, addresses: list[int], names: list[bytes]) -> SymbolTable:
        """Make a table of addresses, each with a kind letter and a name, in any order."""
        ascending = sorted(addresses)
        if ascending != addresses:
            order = sorted(range(len(addresses)), key=addresses.__getitem__)
            names = [names[number] for number in order]
        starts = array("I", [0])
        starts.extend(accumulate(map(len, names)))
        index = hash_index((name[1:], number) for number, name in enumerate(names))
        return cls(array("Q", ascending), starts, b"".join(names), index)

    def __len__(self) -> int:
        return len(self.addresses)

    def __getitem__(self, number: int) -> Symbol:
        text = bytes(self.names[self.starts[number] : self.starts[number + 1]]).decode("ascii", "replace")
        address = self.addresses[number]
        following = bisect_right(self.addresses, address)
        end = self.addresses[following] if following < len(self) else address + 1
        return Symbol(text[1:], address, text[:1], min(end - address, LONGEST_SYMBOL))

    def __iter__(self) -> Iterator[Symbol]:
        return (self[number] for number in range(len(self)))

    def named(self, name: str) -> list[Symbol]:
        """All symbols of that name: a static one can occur more than once."""
        candidates = (self[number] for number in hash_lookup(self.index, name.encode()) if number < len(self))
        return [symbol for symbol in candidates if symbol.name == name]

    def address_of(self, name: str) -> int | None:
        """The address of the first symbol of that name."""
        found = self.named(name)
        return found[0].address if found else None

    def at(self, address: int) -> list[Symbol]:
        """The symbols whose extent holds ``address``; aliases share one."""
        last = bisect_right(self.addresses, address) - 1
        if last < 0:
            return []
        first = bisect_left(self.addresses, self.addresses[last])
        around = (self[number] for number in range(first, last + 1))
        return [symbol for symbol in around if symbol.address <= address < symbol.address + symbol.size]
