"""Cores of arm64 programs, which the kernel wrote, explained on whatever machine this is."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from memdump.crash.explanation import Explanation, explain
from tests.conftest import LAB_REQUIRED
from tests.crash import arm64, test_explanation
from tests.lab import cache

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.lab

NO_CRASH = ("divide", "divide_overflow")
"""A division by zero gives 0 on arm64."""
OTHER = {"misaligned": "raised", "misaligned_checked": "raised", "far_element": "unmapped"}
"""Ways that are others on arm64, or of which the instructions do not tell all."""
KINDS = {way: OTHER.get(way, kind) for way, kind in test_explanation.KINDS.items() if way not in NO_CRASH}
FRAMES = ("null_field", "use_freed", "jump_to_unmapped", "handler_fails", "handler_aborts", "plain_abort")


@pytest.fixture(scope="module")
def made() -> arm64.Cores:
    try:
        return arm64.get()
    except cache.NoLab as error:
        if LAB_REQUIRED:
            raise
        pytest.skip(f"no cores of arm64: {error}")


@pytest.fixture(scope="module")
def explained(made: arm64.Cores) -> Callable[..., Explanation]:
    def explanation(way: str, *, debug: bool = True) -> Explanation:
        return explain(made.core("crash" if debug else "crash-stripped", way), root=made.root)

    return explanation


@pytest.mark.parametrize("debug", [True, False], ids=["debug", "stripped"])
@pytest.mark.parametrize(("way", "kind"), KINDS.items())
def test_the_kind_of_crash(way: str, kind: str, debug: bool, explained: Callable[..., Explanation]) -> None:
    found = explained(way, debug=debug)
    assert found.verdict.kind == kind, found.verdict
    assert found.architecture == "aarch64"


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("null_field", "a read of 8 bytes through a NULL pointer, at offset 24 (0x18)"),
        ("null_write", "a write of 4 bytes through a NULL pointer; register x0 is 0"),
        ("below_null", "a write of 1 byte at offset -8 from a NULL pointer"),
        ("far_field", "at offset 70000 "),
        ("write_read_only", "a write of 1 byte in memory that is read-only"),
        ("text_as_pointer", "a read of 8 bytes at 0x776f6c667265766f, which can be no address"),
        ("huge_frame", "far below it; "),
        ("failed_assertion", '`zero == 1 && "the answer is known"` failed'),
        ("thread_stack_overflow", "in the guard page below it; "),
    ],
)
def test_what_is_said(way: str, says: str, explained: Callable[..., Explanation]) -> None:
    assert says in explained(way).verdict.text


@pytest.mark.parametrize(
    ("way", "note"),
    [
        ("null_field", "node->next"),
        ("stack_overflow", "endless recursion: recurse calls itself"),
        ("overflow_with_handler", "the stack has no room for it"),
        # The highest byte of a program counter is no part of an address.
        ("smashed_return", "is the text 'smashed'"),
        ("call_text", "is the text 'smashed'"),
        ("handler_sends_again", "then a handler of SIGSEGV ran, and sent SIGSEGV"),
        ("handler_on_its_own_stack", "then a handler of SIGSEGV ran, and sent SIGSEGV"),
        ("handler_aborts", "then a handler of SIGSEGV ran, and aborted"),
        ("handler_fails", "then a handler of SIGSEGV ran, and failed itself: a write of 1 byte"),
    ],
)
def test_what_is_noted(way: str, note: str, explained: Callable[..., Explanation]) -> None:
    assert any(note in said for said in explained(way).verdict.notes)


def gdb(made: arm64.Cores, way: str, *questions: str) -> str:
    if not shutil.which("gdb-multiarch"):
        pytest.skip("gdb-multiarch is not installed: apt install gdb-multiarch")
    command = ["gdb-multiarch", "-nx", "-nh", "--batch", "-iex", "set debuginfod enabled off"]
    command += [word for question in questions for word in ("-ex", question)]
    command += [str(made.root / "crash"), str(made.core("crash", way))]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("way", FRAMES)
def test_the_stack_is_gdbs(way: str, made: arm64.Cores, explained: Callable[..., Explanation]) -> None:
    said = gdb(made, way, "echo =stack=\\n", "bt").rpartition("=stack=\n")[2]
    theirs = [
        found[1] or found[2]
        for found in re.finditer(
            r"^#\d+ +(?:0x[0-9a-f]+ in )?(?:<(signal handler called)>|(\S+) \()", said, re.MULTILINE
        )
    ]
    ours = [frame.function.strip("<>") or f"{frame.pc:#018x}" for frame in explained(way).stack]
    assert theirs
    # gdb goes on to main only; what called main has no lines.
    assert ours[: len(theirs)] == [name if name != "??" else ours[0] for name in theirs]
    assert theirs[-1] == "main"


@pytest.mark.parametrize("way", ["null_field", "handler_sends_again", "threads"])
def test_registers_and_threads(way: str, made: arm64.Cores, explained: Callable[..., Explanation]) -> None:
    said = gdb(made, way, "info registers", "info threads")
    theirs = {
        name: int(value, 16) for name, value in re.findall(r"^(\w+) +0x([0-9a-f]+)", said, re.MULTILINE)
    }
    found = explained(way)
    ours = {register.name: register.value for register in found.registers}
    assert len(ours) == 34
    assert {name: theirs[name] for name in ours if name in theirs} == {
        name: ours[name] for name in ours if name in theirs
    }
    assert len(theirs.keys() & ours.keys()) >= 31
    tids = {int(tid) for tid in re.findall(r"LWP (\d+)", said.partition("Id ")[2])}
    assert {found.thread, *(tid for group in found.others for tid in group.threads)} == tids
