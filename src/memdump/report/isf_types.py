"""The types of a BTF as Volatility 3's Intermediate Symbol Format spells them.

Source: ``volatility3/schemas/schema-6.2.0.json``, and the conventions that Volatility's plugins rely on: a
typedef is replaced by what it stands for, a structure without a name is called as its typedef or gets a name
made up for it, and a member without a name is marked ``anonymous``, so that its own members are found in the
structure around it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from memdump.kernel.btf import BadBtf, Btf, BtfType, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    Descriptor = dict[str, Any]

POINTER_SIZE = 8
VOID: Descriptor = {"kind": "base", "name": "void"}
FUNCTION: Descriptor = {"kind": "function"}
BITS_OF_BOOL: Descriptor = {"kind": "base", "name": "unsigned char"}
"""What a ``_Bool`` bit-field is read as: of a ``_Bool`` Volatility takes the bit after making it 0 or 1."""
AGGREGATES = {Kind.STRUCT: "struct", Kind.UNION: "union"}
ENUMERATIONS = (Kind.ENUM, Kind.ENUM64)
TRANSPARENT = frozenset({Kind.TYPEDEF, Kind.CONST, Kind.VOLATILE, Kind.RESTRICT, Kind.TYPE_TAG})
INT_SIGNED, INT_BOOL = 1, 4
DEEPEST = 64
"""No sane type refers to another more often in a row; a hostile one may refer to itself."""

SPELLING = re.compile(r"(?:const )?(?:(struct|union|enum) )?(\w+(?: \w+)*) ?(\**)(?: ?\[(\d*)\])?")
AS_BTF_SPELLS = {
    "unsigned long": "long unsigned int",
    "unsigned long long": "long long unsigned int",
    "long": "long int",
    "unsigned short": "short unsigned int",
    "bool": "_Bool",
}


class IsfTypes:
    """Describes the types of one BTF; raises `BadBtf` where a type makes no sense."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._types = [btf.type(number) for number in range(len(btf))]
        self._names = _unique_names(self._types)
        self._described: dict[int, Descriptor] = {}
        self.declared = {
            kind: {found.name: found.size_or_type for found in self._types if found.kind is kind}
            for kind in (Kind.FUNC, Kind.VAR)
        }
        """Functions and variables by name, with the numbers of their types."""

    def base_types(self) -> dict[str, Descriptor]:
        """The section ``base_types``."""
        bases = {
            "void": _base("void", 0, signed=False),
            "pointer": _base("int", POINTER_SIZE, signed=False),
            "unsigned char": _base("char", 1, signed=False),
        }
        for found in self._types:
            if found.kind is Kind.INT:
                encoding = found.words[0] >> 24
                kind = "bool" if encoding & INT_BOOL else "char" if found.name.endswith("char") else "int"
                bases[found.name] = _base(kind, found.size_or_type, signed=bool(encoding & INT_SIGNED))
            elif found.kind is Kind.FLOAT:
                bases[found.name] = _base("float", found.size_or_type, signed=True)
        return bases

    def user_types(self) -> dict[str, Descriptor]:
        """The section ``user_types``: structures and unions."""
        return {
            self._names[number]: {
                "kind": AGGREGATES[found.kind],
                "size": found.size_or_type,
                "fields": dict(self._fields(found)),
            }
            for number, found in enumerate(self._types)
            if found.kind in AGGREGATES
        }

    def enums(self) -> dict[str, Descriptor]:
        """The section ``enums``."""
        integers: dict[tuple[int, bool], str] = {(1, False): "unsigned char", (1, True): "signed char"}
        for name, base in self.base_types().items():
            if base["kind"] == "int" and name != "pointer":
                integers.setdefault((base["size"], base["signed"]), name)
        return {
            self._names[number]: {
                "size": found.size_or_type,
                "base": integers.get((found.size_or_type, found.flag), "unsigned int"),
                "constants": dict(self._btf.enumerators(found)),
            }
            for number, found in enumerate(self._types)
            if found.kind in ENUMERATIONS
        }

    def describe(self, number: int, depth: int = 0) -> Descriptor:
        """The type with that number as a descriptor."""
        known = self._described.get(number)
        if known is None:
            if depth > DEEPEST or number >= len(self._types):
                raise BadBtf(f"BTF type {number} does not exist or refers to itself")
            known = self._described[number] = self._describe(number, self._types[number], depth + 1)
        return known

    def _describe(self, number: int, found: BtfType, depth: int) -> Descriptor:
        kind = found.kind
        if kind in TRANSPARENT:
            return self.describe(found.size_or_type, depth)
        if kind is Kind.PTR:
            return {"kind": "pointer", "subtype": self.describe(found.size_or_type, depth)}
        if kind is Kind.ARRAY:
            element, _, count = found.words
            return _array(self.describe(element, depth), count)
        if kind in AGGREGATES:
            return {"kind": AGGREGATES[kind], "name": self._names[number]}
        if kind in ENUMERATIONS:
            return {"kind": "enum", "name": self._names[number]}
        if kind in (Kind.INT, Kind.FLOAT):
            return {"kind": "base", "name": found.name}
        if kind is Kind.FWD:
            return {"kind": "union" if found.flag else "struct", "name": found.name}
        return FUNCTION if kind in (Kind.FUNC, Kind.FUNC_PROTO) else VOID

    def _fields(self, found: BtfType) -> Iterator[tuple[str, Descriptor]]:
        unnamed = 0
        for name, number, offset, bits in self._btf.members(found):
            type_ = self.describe(number)
            if bits:
                yield name or f"unnamed_bits_{offset}", self._bit_field(number, type_, offset, bits)
            elif name:
                yield name, {"offset": offset // 8, "type": type_}
            elif type_["kind"] in AGGREGATES.values():
                yield f"unnamed_field_{unnamed:x}", {"offset": offset // 8, "type": type_, "anonymous": True}
                unnamed += 1

    def _bit_field(self, number: int, type_: Descriptor, offset: int, bits: int) -> Descriptor:
        """A bit-field: its offset is that of the integer around it, its position is from the lowest bit."""
        width = 8 * (self._size(number) or 4)
        position = offset % width
        if position + bits > width:  # a packed structure, where it straddles two integers
            position = offset % 8
        if type_.get("name") == "_Bool":
            type_ = BITS_OF_BOOL
        field = {"kind": "bitfield", "bit_position": position, "bit_length": bits, "type": type_}
        return {"offset": (offset - position) // 8, "type": field}

    def _size(self, number: int) -> int:
        """The size of an integer or an enumeration in bytes; 0 if the type is neither."""
        for _ in range(DEEPEST):
            found = self._types[number]
            if found.kind not in TRANSPARENT:
                return found.size_or_type if found.kind in (Kind.INT, *ENUMERATIONS) else 0
            number = found.size_or_type
        return 0

    def spelled(self, spelling: str, size: int) -> Descriptor | None:
        """The type that C spells so, of a variable of ``size`` bytes; ``None`` where this kernel lacks it.

        What is understood is what `memdump.kernel.variables` holds.  The size tells how long an
        array is that is spelled without a length.
        """
        matched = SPELLING.fullmatch(spelling)
        if matched is None:
            return None
        tag, name, stars, count = matched.groups()
        number = self._named(tag, name)
        if number is None:
            return None
        type_ = self.describe(number)
        for _ in stars:
            type_ = {"kind": "pointer", "subtype": type_}
        if count is None:
            return type_
        element = POINTER_SIZE if stars else self._types[number].size_or_type
        return _array(type_, int(count) if count else size // max(element, 1))

    def _named(self, tag: str | None, name: str) -> int | None:
        if name == "void":
            return 0
        kinds = {"struct": (Kind.STRUCT,), "union": (Kind.UNION,), "enum": ENUMERATIONS}
        wanted = kinds[tag] if tag else (Kind.INT, Kind.TYPEDEF)
        named = self._btf.named(AS_BTF_SPELLS.get(name, name))
        return next((number for number, found in named if found.kind in wanted), None)

    def unnamed_with(self, *members: str) -> int | None:
        """The first structure without a name whose members are called like that, in this order."""
        for number, found in enumerate(self._types):
            if found.kind is Kind.STRUCT and not found.name and found.vlen == len(members):
                names = tuple(name for name, *_ in self._btf.members(found))
                if names == members:
                    return number
        return None


def _unique_names(types: list[BtfType]) -> dict[int, str]:
    """Names of structures, unions and enumerations: two are never the same, as ISF knows types by name alone.

    Of several that share a name the first one gets it, as in drgn; one without a name gets that of a typedef.
    """
    names: dict[int, str] = {}
    taken: set[tuple[bool, str]] = set()

    def give(number: int, name: str) -> None:
        key = (types[number].kind in ENUMERATIONS, name)
        if name and key not in taken:
            taken.add(key)
            names[number] = name

    wanted = [n for n, found in enumerate(types) if found.kind in AGGREGATES or found.kind in ENUMERATIONS]
    for number in wanted:
        give(number, types[number].name)
    unnamed = {number for number in wanted if not types[number].name}
    for found in types:
        if found.kind is Kind.TYPEDEF and found.size_or_type in unnamed and found.size_or_type not in names:
            give(found.size_or_type, found.name)
    for number in wanted:
        # No name in C has a number sign, so these are taken by nobody.
        names.setdefault(number, f"{types[number].name or 'unnamed'}#{number:x}")
    return names


def _base(kind: str, size: int, *, signed: bool) -> Descriptor:
    return {"kind": kind, "size": size, "signed": signed, "endian": "little"}


def _array(subtype: Descriptor, count: int) -> Descriptor:
    return {"kind": "array", "count": count, "subtype": subtype}
