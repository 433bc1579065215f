"""The symbol table that a kernel carries for its own messages, found by its shape and decoded.

Nothing needs to name its place.  The *token table* holds the 256 strings that symbol names are made of, and
the digits stand in it one after the other; the *token index* behind it holds their offsets, which proves
the find.  From there the other arrays follow (``scripts/kallsyms.c`` of Linux writes them,
``kernel/kallsyms.c`` reads them):

- up to 6.3: offsets, relative base, number, names, markers, (6.2 and 6.3: sequence of names,) token table,
  token index;
- from 6.4: number, names, markers, token table, token index, offsets, relative base, sequence of names;
- from 7.0: the same without a relative base, since an offset counts from the place where it stands.

Which one it is shows in the addresses: only with the right one is ``_text`` where the kernel is mapped.
"""

from __future__ import annotations

import contextlib
from array import array
from itertools import islice
from typing import TYPE_CHECKING

from memdump.kernel.symbols import SymbolTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKENS = 256
DIGITS = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00"
PER_MARKER = 256
"""There is a marker, the offset of its name, for each 256th symbol."""
MOST_SYMBOLS = 1 << 22
MOST_TABLES = 8
"""A kernel has one token table; a hostile image is not searched for ever."""
TEXT = b"T_text"
BANNERS = (b"Dlinux_banner", b"Rlinux_banner")
BANNER = b"Linux version "
"""What ``linux_banner`` begins with: with a layout that is off by one, that symbol points beside it."""


class Malformed(ValueError):
    """These bytes are not a kallsyms table after all."""


def find_symbols(data: bytes, text: int, search_from: int = 0) -> SymbolTable | None:
    """Find and decode kallsyms in a kernel image.

    ``data`` is the kernel image from ``_text`` on, ``text`` the virtual address of that; the search begins
    at offset ``search_from``.  Returns ``None`` where there is none.
    """
    for table, tokens, index in islice(_token_tables(data, search_from), MOST_TABLES):
        with contextlib.suppress(ValueError, IndexError, OverflowError):
            return _decode(data, text, table, tokens, index)
    return None


def _decode(data: bytes, text: int, table: int, tokens: list[bytes], index: int) -> SymbolTable:
    for markers in _marker_arrays(data, table):
        for number_at, names_at, count in _name_arrays(data, markers):
            names = _names(data, names_at, count, tokens, markers.values)
            known = {name: names.index(name) for name in (TEXT, *BANNERS) if name in names}
            for layout in _layouts(data, text, count, number_at, index + 2 * TOKENS):
                if TEXT in known and _plausible(data, text, known, layout):
                    return SymbolTable.build([layout(number) for number in range(count)], names)
    raise Malformed("no layout gives _text its address")


def _plausible(data: bytes, text: int, known: dict[bytes, int], layout: Callable[[int], int]) -> bool:
    """Whether ``_text`` is where the kernel is mapped, and the banner (if it is listed) where it stands."""
    if layout(known[TEXT]) != text:
        return False
    banners = [layout(known[name]) - text for name in BANNERS if name in known]
    return all(data.startswith(BANNER, max(0, at)) for at in banners)


def _align(position: int, to: int) -> int:
    return -(-position // to) * to


def _token_tables(data: bytes, search_from: int) -> Iterator[tuple[int, list[bytes], int]]:
    """Start of each token table, its tokens, and the start of its token index."""
    at = data.find(DIGITS, search_from)
    while at >= 0:
        with contextlib.suppress(ValueError):
            yield _tokens(data, at)
        at = data.find(DIGITS, at + 1)


def _tokens(data: bytes, digits: int) -> tuple[int, list[bytes], int]:
    """Start of the token table around the digits, the tokens, and the start of the token index."""
    start = digits
    for _ in range(ord("0")):
        start = data.rindex(b"\0", max(0, start - 128), start - 1) + 1
    tokens, offsets, end = [], array("H"), start
    for _ in range(TOKENS):
        stop = data.index(b"\0", end, end + 128)
        tokens.append(data[end:stop])
        offsets.append(end - start)
        end = stop + 1
    for alignment in (8, 4, 2):
        index = _align(end, alignment)
        if data[index : index + 2 * TOKENS] == offsets.tobytes():
            return start, tokens, index
    raise Malformed("no token index behind the token table")


class _Markers:
    """An array of markers: where it starts and what it holds."""

    def __init__(self, start: int, values: list[int]) -> None:
        self.start = start
        self.values = values


def _marker_arrays(data: bytes, table: int) -> Iterator[_Markers]:
    """Arrays of 32-bit markers that end at the token table, or before a sequence of names in front of it."""
    low = max(0, table - 3 * MOST_SYMBOLS)
    words = memoryview(data)[low + table % 4 : table].cast("I") if table % 4 == low % 4 else None
    if words is None:
        low = table % 4
        words = memoryview(data)[low:table].cast("I")
    base = table - 4 * len(words)
    end = len(words)
    while end > 2:
        start = end - 1
        while start > 0 and 256 < words[start] - words[start - 1] < 256 * 256:
            start -= 1
        if words[start] == 0 and end - start > 2:
            values = words[start:end].tolist()
            gap = (len(words) - end) * 4
            if gap < 16 or 3 * PER_MARKER * (len(values) - 1) <= gap <= 3 * PER_MARKER * len(values) + 16:
                yield _Markers(base + 4 * start, values)
        end = min(end - 1, start)


def _name_arrays(data: bytes, markers: _Markers) -> Iterator[tuple[int, int, int]]:
    """Where the number of symbols and the names may start, and that number."""
    blocks = len(markers.values)
    last = markers.start - markers.values[-1]
    for names_at in range(last & -4, max(last - 256 * 256, 8), -4):
        for number_at in (names_at - 4, names_at - 8):
            count = int.from_bytes(data[number_at : number_at + 4], "little")
            if _align(count, PER_MARKER) == blocks * PER_MARKER and _ends_at(data, names_at, count, markers):
                yield number_at, names_at, count


def _ends_at(data: bytes, names_at: int, count: int, markers: _Markers) -> bool:
    """Whether the names of the last block end where the markers start, but for padding."""
    for long_names in (True, False):
        at = names_at + markers.values[-1]
        for _ in range(count - PER_MARKER * (len(markers.values) - 1)):
            length, at = _length(data, at, long_names)
            at += length
        if 0 <= markers.start - at < 16:
            return True
    return False


def _length(data: bytes, at: int, long_names: bool) -> tuple[int, int]:
    """How many tokens a name has, and where they start; from 6.1 on a length above 127 takes two bytes."""
    length = data[at]
    if long_names and length & 0x80:
        return length & 0x7F | data[at + 1] << 7, at + 2
    return length, at + 1


def _names(data: bytes, at: int, count: int, tokens: list[bytes], markers: list[int]) -> list[bytes]:
    """The names, each behind its kind letter."""
    for long_names in (True, False):
        names = _names_as(data, at, count, tokens, markers, long_names)
        if names is not None:
            return names
    raise Malformed("names and markers disagree")


def _names_as(
    data: bytes, start: int, count: int, tokens: list[bytes], markers: list[int], long_names: bool
) -> list[bytes] | None:
    names = []
    at = start
    join, token = b"".join, tokens.__getitem__
    for number in range(count):
        if not number % PER_MARKER and at - start != markers[number // PER_MARKER]:
            return None
        length = data[at]
        at += 1
        if long_names and length & 0x80:
            length, at = _length(data, at - 1, long_names)
        end = at + length
        names.append(join(map(token, data[at:end])))
        at = end
    return names


def _layouts(
    data: bytes, text: int, count: int, number_at: int, behind_index: int
) -> Iterator[Callable[[int], int]]:
    """Ways to tell the address of a symbol by its number, whether or not they make sense here."""
    for alignment in (8, 4):
        for at in (_align(behind_index, alignment), number_at - 8 - _align(4 * count, alignment)):
            if 0 <= at <= len(data) - 4 * count - 8:
                offsets = memoryview(data)[at : at + 4 * count].cast("i")
                base_at = _align(at + 4 * count, alignment)
                base = int.from_bytes(data[base_at : base_at + 8], "little")
                yield from (_absolute_percpu(offsets, base), _relative(offsets, base))
                yield _place_relative(offsets, text + at)
    at = number_at - 8 * count
    if at >= 0:
        yield memoryview(data)[at : at + 8 * count].cast("Q").__getitem__


def _absolute_percpu(offsets: memoryview, base: int) -> Callable[[int], int]:
    """``CONFIG_KALLSYMS_ABSOLUTE_PERCPU``, up to 6.14: what is not negative is the address itself."""
    return lambda number: offset if (offset := offsets[number]) >= 0 else base - 1 - offset


def _relative(offsets: memoryview, base: int) -> Callable[[int], int]:
    return lambda number: base + (offsets[number] & 0xFFFFFFFF)


def _place_relative(offsets: memoryview, address: int) -> Callable[[int], int]:
    """From 7.0: an offset counts from its own address."""
    return lambda number: address + 4 * number + offsets[number]
