"""BTF: the types of a kernel, which lie in its own memory.

Source of the layout: ``include/uapi/linux/btf.h`` and ``Documentation/bpf/btf.rst`` of Linux.  A module's
BTF is *split*: its type numbers and its string offsets go on where those of vmlinux end.
"""

from __future__ import annotations

import struct
from array import array
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from memdump.kernel.symbols import hash_index, hash_lookup

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"\x9f\xeb\x01"
"""The magic 0xeb9f in little-endian order, and version 1."""
HEADER = struct.Struct("<HBBIIIII")


class Kind(IntEnum):
    """The kinds of BTF types (``BTF_KIND_*``)."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


NAMED = frozenset(
    {Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.TYPEDEF, Kind.FUNC, Kind.VAR, Kind.FLOAT, Kind.ENUM64}
)
"""The kinds that are looked up by name."""

_FIXED = {Kind.INT: 1, Kind.ARRAY: 3, Kind.VAR: 1, Kind.DECL_TAG: 1}
_EACH = {
    Kind.STRUCT: 3,
    Kind.UNION: 3,
    Kind.ENUM: 2,
    Kind.FUNC_PROTO: 2,
    Kind.DATASEC: 3,
    Kind.ENUM64: 3,
}
"""32-bit words behind the three of every type: a fixed number, and so many for each member."""


class BadBtf(ValueError):
    """The bytes are not a whole, consistent BTF."""


class BtfType(NamedTuple):
    """A type: ``size_or_type`` is the size in bytes, or the number of the type that it refers to.

    ``words`` holds what follows in the type section, as 32-bit words: ``vlen`` members or parameters, or
    the encoding of an integer.
    """

    kind: Kind
    name: str
    flag: bool
    vlen: int
    size_or_type: int
    words: memoryview


class BtfIndex(NamedTuple):
    """What looking up takes, as flat arrays that can be cached."""

    offsets: array[int] | memoryview
    """Word offset of each type in the type section, from the first one that is not void."""
    names: array[int] | memoryview
    """`hash_index` of the named types."""
    enumerators: array[int] | memoryview
    """`hash_index` of the enumerators, with the number of the enumeration."""


class Btf:
    """A BTF section; ``base`` is that of vmlinux where this is a module's.

    Raises `BadBtf` unless every type is whole, so a torn copy is noticed before it is used.  A given
    ``index`` (from the cache) is trusted only as far as looking up in it goes: every access is checked all
    the same.
    """

    def __init__(self, data: bytes, base: Btf | None = None, index: BtfIndex | None = None) -> None:
        self.data = data
        types, self._strings = _sections(data)
        self._words = memoryview(types).cast("I")
        self._base = base
        self._first = len(base) if base else 1
        self._first_string: int = base.string_end if base else 0
        self.string_end: int = self._first_string + len(self._strings)
        if index is None:
            index = BtfIndex(_offsets(self._words, self.string_end), array("Q"), array("Q"))
            index = index._replace(names=self._hash_names(index), enumerators=self._hash_enumerators(index))
        self.index = index

    def __len__(self) -> int:
        """One more than the highest type number."""
        return self._first + len(self.index.offsets)

    def type(self, number: int) -> BtfType:
        """The type with that number; raises `BadBtf` if there is none."""
        if number < self._first and self._base:
            return self._base.type(number)
        if number == 0:
            return BtfType(Kind.VOID, "", False, 0, 0, self._words[:0])
        try:
            at = self.index.offsets[number - self._first]
            name, info, size_or_type = self._words[at : at + 3]
            kind = Kind(info >> 24 & 0x1F)
        except (IndexError, ValueError):
            raise BadBtf(f"BTF type {number} does not exist") from None
        vlen = info & 0xFFFF
        length = _FIXED.get(kind, 0) + _EACH.get(kind, 0) * vlen
        words = self._words[at + 3 : at + 3 + length]
        if number < self._first or len(words) != length:
            raise BadBtf(f"BTF type {number} is torn")
        return BtfType(kind, self.string(name), bool(info >> 31), vlen, size_or_type, words)

    def string(self, offset: int) -> str:
        """The string at that offset."""
        return self._string(offset).decode("utf-8", "replace")

    def _string(self, offset: int) -> bytes:
        if offset < self._first_string and self._base:
            return self._base._string(offset)
        start = offset - self._first_string
        return self._strings[start : self._strings.find(b"\0", start)]

    def named(self, name: str) -> Iterator[tuple[int, BtfType]]:
        """The types of that name with their numbers, in order."""
        for number in hash_lookup(self.index.names, name.encode()):
            found = self.type(number)
            if found.name == name:
                yield number, found

    def enumerations_with(self, enumerator: str) -> Iterator[int]:
        """The numbers of the enumerations that have an enumerator of that name."""
        for number in hash_lookup(self.index.enumerators, enumerator.encode()):
            if any(name == enumerator for name, _ in self.enumerators(self.type(number))):
                yield number

    def enumerators(self, enumeration: BtfType) -> Iterator[tuple[str, int]]:
        """Names and values of an ENUM or ENUM64."""
        each = _EACH[enumeration.kind]
        bits = 32 * (each - 1)
        for at in range(0, len(enumeration.words), each):
            value = int.from_bytes(enumeration.words[at + 1 : at + each].tobytes(), "little")
            if enumeration.flag and value >> (bits - 1):
                value -= 1 << bits
            yield self.string(enumeration.words[at]), value

    def members(self, compound: BtfType) -> Iterator[tuple[str, int, int, int]]:
        """Name, type number, bit offset and bit-field size (0 if none) of each member of a compound."""
        for at in range(0, len(compound.words), 3):
            name, member, offset = compound.words[at : at + 3]
            if compound.flag:
                yield self.string(name), member, offset & 0xFFFFFF, offset >> 24
            else:
                yield self.string(name), member, offset, 0

    def _hash_names(self, index: BtfIndex) -> array[int]:
        words, wanted = self._words, {int(kind) for kind in NAMED}
        named = (
            (self._string(words[at]), number)
            for number, at in enumerate(index.offsets, self._first)
            if words[at + 1] >> 24 & 0x1F in wanted and words[at]
        )
        return hash_index(named)

    def _hash_enumerators(self, index: BtfIndex) -> array[int]:
        words = self._words
        each = {int(Kind.ENUM): 2, int(Kind.ENUM64): 3}
        named = (
            (self._string(words[at + 3 + member * step]), number)
            for number, at in enumerate(index.offsets, self._first)
            if (step := each.get(words[at + 1] >> 24 & 0x1F))
            for member in range(words[at + 1] & 0xFFFF)
        )
        return hash_index(named)


def size_of(start: bytes) -> int | None:
    """The size of the whole BTF that begins with these bytes (24 are enough); ``None`` if none does."""
    try:
        _, _, _, header, type_offset, type_length, string_offset, string_length = HEADER.unpack_from(start)
    except struct.error:
        return None
    if not start.startswith(MAGIC) or not HEADER.size <= header <= 256:
        return None
    return int(header + max(type_offset + type_length, string_offset + string_length))


def _sections(data: bytes) -> tuple[bytes, bytes]:
    """The type and the string section."""
    size = size_of(data)
    if size is None or size > len(data):
        raise BadBtf("not a whole BTF: header is wrong")
    _, _, _, header, type_offset, type_length, string_offset, string_length = HEADER.unpack_from(data)
    types = data[header + type_offset :][:type_length]
    strings = data[header + string_offset :][:string_length]
    if type_length % 4 or not strings.endswith(b"\0"):
        raise BadBtf("not a whole BTF: sections are torn")
    return types, strings


def _offsets(words: memoryview, string_end: int) -> array[int]:
    """Where each type begins; raises `BadBtf` unless they fill the section exactly."""
    fixed = [_FIXED.get(kind, 0) + 3 for kind in Kind]
    each = [_EACH.get(kind, 0) for kind in Kind]
    offsets = array("I")
    append, at, end = offsets.append, 0, len(words)
    try:
        while at < end:
            info = words[at + 1]
            kind = info >> 24 & 0x1F
            if not kind or words[at] >= string_end:
                raise BadBtf(f"not a whole BTF: type at word {at} is torn")
            append(at)
            at += fixed[kind] + each[kind] * (info & 0xFFFF)
    except IndexError:
        raise BadBtf(f"not a whole BTF: type at word {at} is torn") from None
    if at != end:
        raise BadBtf("not a whole BTF: the last type is torn")
    return offsets
