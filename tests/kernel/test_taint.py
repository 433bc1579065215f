from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memdump.kernel.taint import letters

# Documentation/admin-guide/tainted-kernels.rst: number and letter.
DOCUMENTED = {
    1: "P",
    2: "F",
    4: "S",
    512: "W",
    1024: "C",
    4096: "O",
    8192: "E",
    65536: "X",
    131072: "T",
    262144: "N",
}


def test_each_bit_has_the_letter_of_the_documentation() -> None:
    assert {number: letters(number) for number in DOCUMENTED} == DOCUMENTED


def test_several_bits_are_told_in_their_order() -> None:
    assert letters(4096 | 8192 | 1) == "POE"


def test_a_sound_kernel_has_none() -> None:
    assert letters(0) == ""


@given(st.integers(0, (1 << 64) - 1))
def test_every_bit_is_told(mask: int) -> None:
    assert len(letters(mask)) == mask.bit_count()
