from __future__ import annotations

import pytest
from drgn import Object
from hypothesis import given
from hypothesis import strategies as st

from memdump.kernel.fields import Fields, first_member
from tests.kernel.forged import Forged

MEMBERS = {"a": "u8", "b": "u64", "c": "u16", "d": "s64", "e": "u32", "f": "u8"}
TYPES = {"struct inner": MEMBERS, "struct outer": {"before": "u64", "inner": "struct inner"}}
INNER, OUTER = "struct inner", "struct outer"


@given(st.binary(min_size=40, max_size=40), st.permutations(sorted(MEMBERS)), st.integers(1, 6))
def test_members_have_the_values_that_drgn_reads(memory: bytes, names: list[str], count: int) -> None:
    forged = Forged(TYPES, 4096)
    address = forged.allocate(40)
    forged.write(address, memory)
    pointer = forged.program.pointer_type(forged.program.type(INNER))
    expected = tuple(
        Object(forged.program, pointer, address).member_(name).value_() for name in names[:count]
    )
    fields = Fields(forged.program.type(INNER), *names[:count])
    assert fields.read(forged.program, address) == expected
    assert fields.unpack(b"\xaa" * 5 + memory, 5) == expected


def test_a_member_of_a_member_is_found() -> None:
    forged = Forged(TYPES, 4096)
    address = forged.put(OUTER, inner__c=7)
    assert Fields(forged.program.type(OUTER), "inner.c").read(forged.program, address) == (7,)


def test_members_can_be_given_by_their_places() -> None:
    forged = Forged(TYPES, 4096)
    address = forged.put(INNER, c=7, a=1)
    place = forged.offset(INNER, "c")
    assert Fields.at(40, (place, "H"), (0, "B")).read(forged.program, address) == (7, 1)


def test_a_member_that_a_release_lacks_is_a_lookup_error() -> None:
    type_ = Forged(TYPES).program.type(OUTER)
    with pytest.raises(LookupError):
        Fields(type_, "inner.z")
    with pytest.raises(LookupError, match=r"no inner\.y or inner\.z"):
        first_member(type_, "inner.y", "inner.z")
    assert first_member(type_, "inner.z", "inner.a") == "inner.a"
