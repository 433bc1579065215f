"""What an instruction does to memory, of both architectures; what is decoded stands in the manuals."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, cast

import pytest

from memdump.crash import instructions
from memdump.crash.instructions import Access

if TYPE_CHECKING:
    from memdump.crash.program import CrashProgram

PC = 0x400000


class Code:
    """A program of a few bytes."""

    def __init__(self, architecture: str, code: str) -> None:
        self.core = types.SimpleNamespace(architecture=architecture, order="<")
        self._code = bytes.fromhex(code)

    def read(self, address: int, size: int) -> bytes | None:
        at = address - PC
        return self._code[at : at + size] if at >= 0 and at + size <= len(self._code) else None

    def word(self, address: int) -> int | None:
        return None


def program(architecture: str, code: str) -> CrashProgram:
    return cast("CrashProgram", Code(architecture, code))


@pytest.mark.parametrize(
    ("architecture", "code", "registers", "expected"),
    [
        ("x86_64", "488b4018", {"rax": 0}, Access(0x18, 8, True, False, "rax")),
        ("x86_64", "c60058", {"rax": 0x10}, Access(0x10, 1, False, True, "rax")),
        ("x86_64", "8b048b", {"rbx": 0x1000, "rcx": 3}, Access(0x100C, 4, True, False, "rbx")),
        ("x86_64", "67890b", {"rbx": 0x1_0000_1000}, Access(0x1000, 4, False, True, "ebx")),
        ("x86_64", "64488b042528000000", {"fs.base": 0x7000}, Access(0x7028, 8, True, False, "")),
        ("x86_64", "488b0510000000", {}, Access(PC + 7 + 0x10, 8, True, False, "rip")),
        ("x86_64", "50", {"rsp": 0x8000}, Access(0x7FF8, 8, False, True, "rsp")),
        ("x86_64", "c3", {"rsp": 0x8000}, Access(0x8000, 8, True, False, "rsp")),
        ("x86_64", "0f2900", {"rax": 4}, Access(4, 16, False, True, "rax")),
        ("aarch64", "000c40f9", {"x0": 0, "sp": 1}, Access(0x18, 8, True, False, "x0")),
        ("aarch64", "000c00f9", {"x0": 0, "sp": 1}, Access(0x18, 8, False, True, "x0")),
        ("aarch64", "207862f8", {"x1": 0x1000, "x2": 2, "sp": 1}, Access(0x1010, 8, True, False, "x1")),
        ("aarch64", "fd7bbea9", {"sp": 0x8000}, Access(0x7FE0, 16, False, True, "sp")),
        ("aarch64", "a00741a9", {"x29": 0x8000, "sp": 1}, Access(0x8010, 16, True, False, "fp")),
        ("aarch64", "60008039", {"x3": 0x10, "sp": 1}, Access(0x10, 1, True, False, "x3")),
        ("aarch64", "600080b9", {"x3": 0x10, "sp": 1}, Access(0x10, 4, True, False, "x3")),
        ("aarch64", "41000079", {"x2": 0x10, "sp": 1}, Access(0x10, 2, False, True, "x2")),
        ("aarch64", "6000803d", {"x3": 0x10, "sp": 1}, Access(0x10, 16, False, True, "x3")),
        ("aarch64", "207c0288", {"x1": 0x10, "sp": 1}, Access(0x10, 4, False, True, "x1")),
        ("aarch64", "410020b8", {"x2": 0x10, "sp": 1}, Access(0x10, 4, True, True, "x2")),
    ],
)
def test_the_memory_that_an_instruction_uses(
    architecture: str, code: str, registers: dict[str, int], expected: Access
) -> None:
    found = instructions.current(program(architecture, code), PC, registers)
    assert found is not None
    assert found.accesses[0] == expected


@pytest.mark.parametrize("code", ["488d4018", "0f1f4000"])
def test_an_address_that_is_only_reckoned_is_not_used(code: str) -> None:
    found = instructions.current(program("x86_64", code), PC, {"rax": 0})
    assert found is not None
    assert found.accesses == ()


@pytest.mark.parametrize(
    ("code", "registers", "divisor"),
    [
        ("f7f9", {"rcx": 0xFFFFFFFF}, -1),
        ("48f7f9", {"rcx": 0}, 0),
        ("41f6f8", {"r8": 0x1FF}, -1),
        ("f6f3", {"rbx": 0x100}, 0),
    ],
)
def test_what_a_division_divides_by(code: str, registers: dict[str, int], divisor: int) -> None:
    found = instructions.current(program("x86_64", code), PC, registers)
    assert found is not None
    assert found.divides
    assert found.divisor == divisor


def test_an_address_without_code_has_no_instruction() -> None:
    assert instructions.current(program("x86_64", ""), PC, {}) is None
    assert instructions.current(program("riscv64", "00"), PC, {}) is None
    assert instructions.around(program("riscv64", "00"), PC, None) == []


@pytest.mark.parametrize(
    ("architecture", "code", "at"),
    [("x86_64", "5548" + "89e5" + "90" * 3 + "488b4018" + "c3", 7), ("aarch64", "1f2003d5" * 4, 8)],
)
def test_instructions_around_one_whose_function_is_not_known(architecture: str, code: str, at: int) -> None:
    found = instructions.around(program(architecture, code), PC + at, None)
    assert PC + at in [one.address for one in found]
    assert found[0].address < PC + at
    assert "".join(one.code for one in found) in code
