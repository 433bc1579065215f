"""Gives drgn the types, enumerators and variables that BTF and kallsyms know.

One entry point, `install`, so that drgn's own BTF support can take its place one day.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from drgn import (
    FindObjectFlags,
    Object,
    Program,
    Qualifiers,
    SymbolBinding,
    SymbolKind,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeMember,
    TypeParameter,
)
from drgn import Symbol as DrgnSymbol

from memdump.kernel.btf import BadBtf, Btf, BtfType, Kind
from memdump.kernel.variables import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from drgn import TypeKindSet

    from memdump.kernel.symbols import Symbol, SymbolTable

    BtfSource = Callable[[], Iterable[Btf]]
    SymbolSource = Callable[[], Iterable[SymbolTable]]

KINDS = {
    TypeKind.INT: (Kind.INT,),
    TypeKind.BOOL: (Kind.INT,),
    TypeKind.FLOAT: (Kind.FLOAT,),
    TypeKind.STRUCT: (Kind.STRUCT,),
    TypeKind.UNION: (Kind.UNION,),
    TypeKind.ENUM: (Kind.ENUM, Kind.ENUM64),
    TypeKind.TYPEDEF: (Kind.TYPEDEF,),
}
QUALIFIERS = {
    Kind.CONST: Qualifiers.CONST,
    Kind.VOLATILE: Qualifiers.VOLATILE,
    Kind.RESTRICT: Qualifiers.RESTRICT,
}
INT_SIGNED, INT_BOOL = 1, 4
"""Bits of the encoding of an INT."""
POINTER_SIZE = 8
DEEPEST = 64
"""No sane type refers to another more often in a row; a hostile one may refer to itself."""


class BtfTypes:
    """drgn types out of a BTF, each made once and only when asked for."""

    def __init__(self, program: Program, btf: Btf) -> None:
        self._program = program
        self._btf = btf
        self._made: dict[int, Type] = {}
        self._depth = 0

    def find(self, kinds: TypeKindSet, name: str) -> Type | None:
        """The first type of that name and of one of the kinds."""
        wanted = {kind for asked in kinds for kind in KINDS.get(asked, ())}
        for number, found in self._btf.named(name):
            if found.kind in wanted:
                made = self.get(number)
                if made.kind in kinds:
                    return made
        return None

    def constant(self, name: str) -> Object | None:
        """The enumerator of that name."""
        for number in self._btf.enumerations_with(name):
            enumeration = self.get(number)
            for enumerator in enumeration.enumerators or ():
                if enumerator.name == name:
                    return Object(self._program, enumeration, value=enumerator.value)
        return None

    def declared(self, name: str, kind: Kind) -> Type | None:
        """The type of a variable (VAR) or function (FUNC) that BTF declares."""
        return next(
            (self.get(found.size_or_type) for _, found in self._btf.named(name) if found.kind is kind),
            None,
        )

    def get(self, number: int) -> Type:
        """The type with that number; raises `BadBtf` where it makes no sense."""
        made = self._made.get(number)
        if made is None:
            if self._depth >= DEEPEST:
                raise BadBtf(f"BTF type {number} refers to itself")
            self._depth += 1
            try:
                made = self._made[number] = self._make(self._btf.type(number))
            finally:
                self._depth -= 1
        return made

    def _make(self, found: BtfType) -> Type:
        maker = self._makers.get(found.kind)
        if maker is None:
            raise BadBtf(f"BTF kind {found.kind.name} is not a type")
        return maker(found)

    @cached_property
    def _makers(self) -> dict[Kind, Callable[[BtfType], Type]]:
        program = self._program
        return {
            Kind.VOID: lambda _: program.void_type(),
            Kind.INT: self._integer,
            Kind.FLOAT: lambda found: program.float_type(found.name, found.size_or_type),
            Kind.PTR: lambda found: program.pointer_type(self.get(found.size_or_type), POINTER_SIZE),
            # No length stands for a flexible array, as GNU C's [0] often does.
            Kind.ARRAY: lambda found: program.array_type(self.get(found.words[0]), found.words[2] or None),
            Kind.STRUCT: self._compound,
            Kind.UNION: self._compound,
            Kind.ENUM: self._enumeration,
            Kind.ENUM64: self._enumeration,
            Kind.FWD: self._forward,
            Kind.TYPEDEF: lambda found: program.typedef_type(found.name, self.get(found.size_or_type)),
            Kind.FUNC_PROTO: self._function,
            **dict.fromkeys(QUALIFIERS, self._qualified),
            **dict.fromkeys((Kind.TYPE_TAG, Kind.FUNC, Kind.VAR), lambda found: self.get(found.size_or_type)),
        }

    def _compound(self, found: BtfType) -> Type:
        make = self._program.struct_type if found.kind is Kind.STRUCT else self._program.union_type
        return make(found.name or None, found.size_or_type, tuple(self._members(found)))

    def _qualified(self, found: BtfType) -> Type:
        inner = self.get(found.size_or_type)
        return inner.qualified(inner.qualifiers | QUALIFIERS[found.kind])

    def _integer(self, found: BtfType) -> Type:
        encoding = found.words[0] >> 24
        if encoding & INT_BOOL:
            return self._program.bool_type(found.name, found.size_or_type)
        return self._program.int_type(found.name, found.size_or_type, bool(encoding & INT_SIGNED))

    def _enumeration(self, found: BtfType) -> Type:
        # What it is compatible with does not show in BTF: an integer of its size and signedness.
        integer = self._program.int_type(
            "int" if found.flag else "unsigned int", found.size_or_type, found.flag
        )
        enumerators = tuple(TypeEnumerator(name, value) for name, value in self._btf.enumerators(found))
        return self._program.enum_type(found.name or None, integer, enumerators)

    def _forward(self, found: BtfType) -> Type:
        """A declaration whose definition may stand elsewhere; its flag says union."""
        kind = Kind.UNION if found.flag else Kind.STRUCT
        for number, other in self._btf.named(found.name):
            if other.kind is kind:
                return self.get(number)
        return (self._program.union_type if found.flag else self._program.struct_type)(found.name)

    def _function(self, found: BtfType) -> Type:
        pairs = [found.words[at : at + 2] for at in range(0, len(found.words), 2)]
        variadic = bool(pairs) and tuple(pairs[-1]) == (0, 0)
        parameters = tuple(
            TypeParameter(self.get(number), self._btf.string(name) or None)
            for name, number in (pairs[:-1] if variadic else pairs)
        )
        return self._program.function_type(self.get(found.size_or_type), parameters, variadic)

    def _members(self, found: BtfType) -> Iterator[TypeMember]:
        for name, number, offset, bits in self._btf.members(found):
            # drgn looks into an anonymous member at once: one that holds itself must be noticed here.
            member = self._member(number, bits) if name or bits else self.get(number)
            yield TypeMember(member, name or None, offset)

    def _member(self, number: int, bits: int) -> Callable[[], Type | Object]:
        if bits:
            return lambda: Object(self._program, self.get(number), bit_field_size=bits)
        return lambda: self.get(number)


class Finder:
    """What drgn calls: looks in vmlinux first, and in the modules only for what vmlinux does not have."""

    def __init__(self, program: Program, btfs: BtfSource, symbols: SymbolSource) -> None:
        self._program = program
        self._btfs = btfs
        self._symbols = symbols
        self._types: list[BtfTypes] = []

    def type(self, _: Program, kinds: TypeKindSet, name: str, filename: str | None) -> Type | None:
        """Find a type: drgn's type finder."""
        if filename is not None:
            return None
        return next((found for types in self._all_types() if (found := types.find(kinds, name))), None)

    def object(self, _: Program, name: str, flags: FindObjectFlags, filename: str | None) -> Object | None:
        """Find an enumerator, a variable or a function: drgn's object finder."""
        if filename is not None:
            return None
        if flags & FindObjectFlags.VARIABLE and (found := self._variable(name)) is not None:
            return found
        if flags & FindObjectFlags.FUNCTION and (found := self._declared(name, Kind.FUNC)) is not None:
            return found
        if flags & FindObjectFlags.CONSTANT:
            return next(
                (found for types in self._all_types() if (found := types.constant(name)) is not None), None
            )
        return None

    def symbol(self, _: Program, name: str | None, address: int | None, one: bool) -> list[DrgnSymbol]:
        """Find symbols: drgn's symbol finder."""
        found: list[DrgnSymbol] = []
        for table in self._symbols():
            if name is not None:
                matching = table.named(name)
            else:
                matching = list(table) if address is None else table.at(address)
            found += [
                _drgn_symbol(symbol)
                for symbol in matching
                if address is None or symbol.address <= address < symbol.address + symbol.size
            ]
            if one and found:
                return found[:1]
        return found

    def _variable(self, name: str) -> Object | None:
        for spelling in VARIABLES.get(name, ()):
            address = self._address_of(name)
            try:
                type_ = self._program.type(spelling)
            except LookupError:
                continue
            if address is not None:
                return Object(self._program, type_, address=address)
        return self._declared(name, Kind.VAR)

    def _declared(self, name: str, kind: Kind) -> Object | None:
        for types in self._all_types():
            declared = types.declared(name, kind)
            if declared is not None:
                address = self._address_of(name)
                return None if address is None else Object(self._program, declared, address=address)
        return None

    def _address_of(self, name: str) -> int | None:
        return next(
            (found for table in self._symbols() if (found := table.address_of(name)) is not None), None
        )

    def _all_types(self) -> Iterator[BtfTypes]:
        """Types of vmlinux, then of each module: their BTF is read when vmlinux's does not do."""
        for number, btf in enumerate(self._btfs()):
            if number == len(self._types):
                self._types.append(BtfTypes(self._program, btf))
            yield self._types[number]


def install(program: Program, btfs: BtfSource, symbols: SymbolSource) -> None:
    """Make drgn find types, objects and symbols in these; both begin with those of vmlinux."""
    finder = Finder(program, btfs, symbols)
    program.register_type_finder("memdump", finder.type, enable_index=0)
    program.register_object_finder("memdump", finder.object, enable_index=0)
    program.register_symbol_finder("memdump", finder.symbol, enable_index=0)


def _drgn_symbol(symbol: Symbol) -> DrgnSymbol:
    letter = symbol.kind.lower()
    kind = (
        SymbolKind.FUNC if letter in "tw" else SymbolKind.OBJECT if letter in "bdrgvc" else SymbolKind.UNKNOWN
    )
    binding = SymbolBinding.GLOBAL if symbol.kind.isupper() else SymbolBinding.LOCAL
    if letter in "vw":
        binding = SymbolBinding.WEAK
    return DrgnSymbol(symbol.name, symbol.address, symbol.size, binding, kind)
