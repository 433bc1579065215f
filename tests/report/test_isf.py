from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.kernel.btf import HEADER, BadBtf, Btf, Kind
from memdump.kernel.variables import VARIABLES
from memdump.report.isf_types import IsfTypes

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNED, BOOL = 1 << 24, 4 << 24


class Writer:
    """Writes a BTF type by type; each call returns the number of its type."""

    def __init__(self) -> None:
        self._types, self._strings, self._count = b"", b"\0", 0

    def add(
        self, kind: Kind, name: str, size_or_type: int, *words: int, vlen: int = 0, flag: bool = False
    ) -> int:
        offset = len(self._strings) if name else 0
        self._strings += name.encode() + b"\0" if name else b""
        info = flag << 31 | kind << 24 | vlen
        self._types += b"".join(word.to_bytes(4, "little") for word in (offset, info, size_or_type, *words))
        self._count += 1
        return self._count

    def compound(self, kind: Kind, name: str, size: int, *members: tuple[str, int, int, int]) -> int:
        """Members are name, type, offset in bits and bits of a bit-field."""
        words: list[int] = []
        for member, type_, offset, bits in members:
            words += (self._string(member), type_, bits << 24 | offset)
        return self.add(kind, name, size, *words, vlen=len(members), flag=True)

    def _string(self, text: str) -> int:
        if not text:
            return 0
        self._strings += text.encode() + b"\0"
        return len(self._strings) - len(text) - 1

    def bytes(self) -> bytes:
        types, strings = self._types, self._strings
        return HEADER.pack(0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


@pytest.fixture
def writer() -> Writer:
    return Writer()


def isf(writer: Writer) -> IsfTypes:
    return IsfTypes(Btf(writer.bytes()))


def test_integers_are_of_the_kind_that_their_name_and_encoding_say(writer: Writer) -> None:
    writer.add(Kind.INT, "int", 4, SIGNED | 32)
    writer.add(Kind.INT, "char", 1, SIGNED | 8)
    writer.add(Kind.INT, "_Bool", 1, BOOL | 8)
    writer.add(Kind.INT, "long unsigned int", 8, 64)
    bases = isf(writer).base_types()
    assert bases["int"] == {"kind": "int", "size": 4, "signed": True, "endian": "little"}
    assert bases["char"]["kind"] == "char"
    assert bases["_Bool"]["kind"] == "bool"
    assert not bases["long unsigned int"]["signed"]
    assert bases["pointer"]["size"] == 8
    assert bases["void"]["size"] == 0


def test_typedefs_and_qualifiers_are_seen_through(writer: Writer) -> None:
    node = writer.add(Kind.STRUCT, "node", 0)
    const = writer.add(Kind.CONST, "", node)
    typedef = writer.add(Kind.TYPEDEF, "node_t", const)
    pointer = writer.add(Kind.PTR, "", typedef)
    array = writer.add(Kind.ARRAY, "", 0, pointer, 0, 5)
    subtype = {"kind": "pointer", "subtype": {"kind": "struct", "name": "node"}}
    assert isf(writer).describe(array) == {"kind": "array", "count": 5, "subtype": subtype}


def test_an_unnamed_structure_is_called_as_its_typedef_and_no_two_alike(writer: Writer) -> None:
    first = writer.add(Kind.STRUCT, "", 4)
    second = writer.add(Kind.STRUCT, "", 8)
    third = writer.add(Kind.STRUCT, "same", 1)
    fourth = writer.add(Kind.UNION, "same", 2)
    writer.add(Kind.TYPEDEF, "kuid_t", first)
    types = isf(writer)
    assert types.describe(first)["name"] == "kuid_t"
    assert types.describe(third)["name"] == "same"
    names = {types.describe(number)["name"] for number in (first, second, third, fourth)}
    assert len(names) == 4
    sizes = {name: made["size"] for name, made in types.user_types().items()}
    assert [sizes[types.describe(number)["name"]] for number in (first, second, third, fourth)] == [
        4,
        8,
        1,
        2,
    ]


def test_members_of_an_unnamed_member_are_found_through_it(writer: Writer) -> None:
    integer = writer.add(Kind.INT, "int", 4, SIGNED | 32)
    inner = writer.compound(Kind.UNION, "", 4, ("a", integer, 0, 0), ("b", integer, 0, 0))
    writer.compound(Kind.STRUCT, "outer", 8, ("first", integer, 0, 0), ("", inner, 32, 0))
    types = isf(writer)
    name = types.describe(inner)["name"]
    assert types.user_types()["outer"]["fields"] == {
        "first": {"offset": 0, "type": {"kind": "base", "name": "int"}},
        "unnamed_field_0": {"offset": 4, "type": {"kind": "union", "name": name}, "anonymous": True},
    }
    assert list(types.user_types()[name]["fields"]) == ["a", "b"]


def test_bit_fields_say_where_the_integer_is_that_holds_them(writer: Writer) -> None:
    integer = writer.add(Kind.INT, "unsigned int", 4, 32)
    boolean = writer.add(Kind.INT, "_Bool", 1, BOOL | 8)
    writer.compound(
        Kind.STRUCT, "flags", 8, ("a", integer, 37, 3), ("b", integer, 28, 8), ("c", boolean, 50, 1)
    )
    fields = isf(writer).user_types()["flags"]["fields"]
    places = {
        name: (field["offset"], field["type"]["bit_position"], field["type"]["bit_length"])
        for name, field in fields.items()
    }
    assert places == {"a": (4, 5, 3), "b": (3, 4, 8), "c": (6, 2, 1)}
    assert fields["a"]["type"]["type"] == {"kind": "base", "name": "unsigned int"}
    # Volatility takes the bit of what it reads, and a _Bool it reads as 0 or 1.
    assert fields["c"]["type"]["type"] == {"kind": "base", "name": "unsigned char"}


def test_enumerations_have_an_integer_of_their_size_and_sign(writer: Writer) -> None:
    writer.add(Kind.INT, "int", 4, SIGNED | 32)
    writer.add(Kind.INT, "unsigned int", 4, 32)
    name = writer._string("LOWEST")
    enumeration = writer.add(Kind.ENUM, "level", 4, name, 2**32 - 2, vlen=1, flag=True)
    types = isf(writer)
    assert types.describe(enumeration) == {"kind": "enum", "name": "level"}
    assert types.enums()["level"] == {"size": 4, "base": "int", "constants": {"LOWEST": -2}}


def test_what_variables_are_spelled_as_is_understood(writer: Writer) -> None:
    writer.add(Kind.INT, "char", 1, SIGNED | 8)
    long = writer.add(Kind.INT, "long unsigned int", 8, 64)
    writer.add(Kind.TYPEDEF, "u64", long)
    writer.add(Kind.STRUCT, "node", 12)
    types = isf(writer)
    number = {"kind": "base", "name": "long unsigned int"}
    node = {"kind": "struct", "name": "node"}
    assert types.spelled("unsigned long", 8) == types.spelled("u64", 8) == number
    assert types.spelled("struct node *[32]", 256) == {
        "kind": "array",
        "count": 32,
        "subtype": {"kind": "pointer", "subtype": node},
    }
    assert types.spelled("struct node []", 50) == {"kind": "array", "count": 4, "subtype": node}
    assert types.spelled("const char *", 8) == {
        "kind": "pointer",
        "subtype": {"kind": "base", "name": "char"},
    }
    assert types.spelled("void *", 8) == {"kind": "pointer", "subtype": {"kind": "base", "name": "void"}}
    assert types.spelled("struct unknown", 8) is None


def test_every_variable_is_spelled_in_a_way_that_is_understood() -> None:
    from memdump.report.isf_types import SPELLING

    assert [
        text for spellings in VARIABLES.values() for text in spellings if not SPELLING.fullmatch(text)
    ] == []


@pytest.mark.parametrize("kind", [Kind.PTR, Kind.TYPEDEF, Kind.CONST])
def test_a_type_that_refers_to_itself_is_refused(writer: Writer, kind: Kind) -> None:
    number = writer.add(kind, "self" if kind is Kind.TYPEDEF else "", 1)
    with pytest.raises(BadBtf):
        isf(writer).describe(number)


def test_a_type_that_does_not_exist_is_refused(writer: Writer) -> None:
    pointer = writer.add(Kind.PTR, "", 77)
    with pytest.raises(BadBtf):
        isf(writer).describe(pointer)


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """A BTF whose types refer to any number, and are called alike or not at all."""
    writer = Writer()
    names, numbers = st.sampled_from(("", "a", "b", "_Bool")), st.integers(0, 12)
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from([kind for kind in Kind if kind is not Kind.VOID]))
        name = draw(names)
        if kind in (Kind.STRUCT, Kind.UNION):
            member = st.tuples(names, numbers, st.integers(0, 2**24 - 1), st.integers(0, 70))
            writer.compound(kind, name, draw(numbers), *draw(st.lists(member, max_size=3)))
        elif kind is Kind.ARRAY:
            writer.add(kind, name, 0, draw(numbers), draw(numbers), draw(numbers))
        elif kind in (Kind.INT, Kind.VAR, Kind.DECL_TAG):
            writer.add(kind, name, draw(numbers), draw(st.integers(0, 2**32 - 1)))
        else:
            writer.add(kind, name, draw(numbers), flag=draw(st.booleans()))
    return writer.bytes()


@given(written())
def test_whatever_the_types_all_that_is_referred_to_is_there(data: bytes) -> None:
    try:
        types = IsfTypes(Btf(data))
        document = {
            "user_types": types.user_types(),
            "enums": types.enums(),
            "base_types": types.base_types(),
        }
    except BadBtf:
        return
    forward = {found.name for found in map(types._btf.type, range(len(types._btf))) if found.kind is Kind.FWD}
    for found in descriptors(document["user_types"]):
        kind, name = found["kind"], found.get("name")
        if kind in ("struct", "union"):
            assert name in document["user_types"] or name in forward
        elif kind == "enum":
            assert name in document["enums"]
        elif kind == "base":
            assert name in document["base_types"]
        else:
            assert kind in ("pointer", "array", "function", "bitfield")


def descriptors(user_types: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each type that a field has, and those inside it."""
    waiting = [field["type"] for made in user_types.values() for field in made["fields"].values()]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += [found[key] for key in ("subtype", "type") if key in found]


def test_names_hold_nothing_that_volatility_takes_for_a_table(writer: Writer) -> None:
    for _ in range(3):
        writer.add(Kind.STRUCT, "", 4)
    assert not any(re.search("!", name) for name in isf(writer).user_types())
