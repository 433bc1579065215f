"""Each way to crash is recognised, with debug information and without."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from memdump.crash import signals
from memdump.crash.explanation import explain
from tests.crash import cores
from tests.process.targets import begun

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.conftest import Crashed, Explained

KINDS = {
    "null_field": "null_pointer",
    "null_write": "null_pointer",
    "null_call": "null_call",
    "jump_to_data": "jump_to_data",
    "jump_to_heap": "jump_to_data",
    "jump_to_unmapped": "wild_jump",
    "write_read_only": "write_to_read_only",
    "read_unmapped": "unmapped",
    "use_freed": "unmapped",
    "read_protected": "no_access",
    "overrun": "overrun",
    "text_as_pointer": "non_canonical",
    "stack_overflow": "stack_overflow",
    "thread_stack_overflow": "stack_overflow",
    "divide": "division_by_zero",
    "divide_overflow": "division_overflow",
    "misaligned": "misaligned",
    "misaligned_checked": "misaligned",
    "shortened_file": "file_shortened",
    "failed_assertion": "assertion",
    "plain_abort": "abort",
    "double_free": "heap_corruption",
    "corrupt_heap": "heap_corruption",
    "invalid_free": "heap_corruption",
    "smashed_stack": "stack_smashing",
    "fortified": "buffer_overflow",
    "illegal": "trap_instruction",
    "breakpoint": "breakpoint",
    "killed": "raised",
    "raised": "raised",
    "threads": "null_pointer",
    "smashed_return": "wild_jump",
    "call_text": "wild_jump",
    "far_field": "null_pointer",
    "far_element": "null_pointer",
    "below_null": "null_pointer",
    "huge_frame": "stack_overflow",
    "overflow_with_handler": "stack_overflow",
    "handler_sends_again": "null_pointer",
    "handler_on_its_own_stack": "null_pointer",
    "handler_aborts": "write_to_read_only",
    "handler_fails": "null_pointer",
}
WITH_AND_WITHOUT = pytest.mark.parametrize("debug", [True, False], ids=["debug", "stripped"])


@WITH_AND_WITHOUT
@pytest.mark.parametrize(("way", "kind"), KINDS.items())
def test_the_kind_of_crash(way: str, kind: str, debug: bool, explained: Explained) -> None:
    found = explained(way, debug=debug)
    assert found.verdict.kind == kind, found.verdict


@WITH_AND_WITHOUT
def test_a_field_of_null_with_its_offset(explained: Explained, debug: bool) -> None:
    verdict = explained("null_field", debug=debug).verdict
    assert verdict.address == 24
    assert "a read of 8 bytes" in verdict.text
    assert "at offset 24 (0x18)" in verdict.text
    assert verdict.notes == (("by the types of the variables it is node->next",) if debug else ())


@WITH_AND_WITHOUT
def test_a_write_to_null_is_called_one(explained: Explained, debug: bool) -> None:
    assert "a write of 4 bytes" in explained("null_write", debug=debug).verdict.text


def test_what_kind_of_memory_was_jumped_to(explained: Explained) -> None:
    assert "the heap (rw-)" in explained("jump_to_heap").verdict.text
    assert "/crash (rw-)" in explained("jump_to_data").verdict.text
    assert explained("jump_to_unmapped").verdict.address == 0x123450000


def test_a_text_that_was_taken_for_a_pointer(explained: Explained) -> None:
    verdict = explained("text_as_pointer").verdict
    assert verdict.address == int.from_bytes(b"overflow", "little")
    assert "'overflow'" in verdict.notes[0]


def test_endless_recursion_and_where_the_stack_ran_out(explained: Explained) -> None:
    main, thread = explained("stack_overflow").verdict, explained("thread_stack_overflow").verdict
    assert main.notes == thread.notes == ("endless recursion: recurse calls itself",)
    assert "right below" in main.text
    assert "in the guard page" in thread.text


@WITH_AND_WITHOUT
def test_where_a_return_or_call_led_to(explained: Explained, debug: bool) -> None:
    for way, says in (
        ("smashed_return", "its return address was overwritten"),
        ("call_text", "a call to 0x"),
    ):
        verdict = explained(way, debug=debug).verdict
        assert says in verdict.text
        assert verdict.address == int.from_bytes(b"smashed!", "little")
        assert "'smashed!'" in verdict.notes[0]


@WITH_AND_WITHOUT
def test_offsets_from_null_that_are_large_or_negative(explained: Explained, debug: bool) -> None:
    for way, says in (
        ("far_field", "at offset 70000 "),
        ("far_element", "at offset 400000 "),
        ("below_null", "at offset -8 from a NULL pointer"),
    ):
        assert says in explained(way, debug=debug).verdict.text


@WITH_AND_WITHOUT
def test_a_stack_that_has_no_room_for_a_handler_or_a_function(explained: Explained, debug: bool) -> None:
    handled, huge = (explained(way, debug=debug).verdict for way in ("overflow_with_handler", "huge_frame"))
    assert "it could not run: the stack has no room for it" in handled.notes[0]
    assert "endless recursion: recurse calls itself" in handled.notes or not debug
    assert " far below it; " in huge.text


@WITH_AND_WITHOUT
@pytest.mark.parametrize(
    ("way", "ended"),
    [
        ("handler_sends_again", "sent SIGSEGV to end the program"),
        ("handler_on_its_own_stack", "sent SIGSEGV to end the program"),
        ("handler_aborts", "aborted the program"),
        ("handler_fails", "failed itself: a write of 1 byte where nothing is mapped"),
    ],
)
def test_the_fault_before_a_handler_and_what_the_handler_did(
    way: str, ended: str, debug: bool, explained: Explained
) -> None:
    found = explained(way, debug=debug)
    expected = explained("write_read_only" if way == "handler_aborts" else "null_field", debug=debug)
    assert found.verdict.notes[:-1] == expected.verdict.notes
    assert found.verdict.notes[-1].startswith(f"then a handler of SIGSEGV ran, and {ended}")
    assert (found.verdict.text[:12], found.verdict.kind) == (
        expected.verdict.text[:12],
        expected.verdict.kind,
    )
    assert found.faulted is not None
    assert found.culprit is found.faulted
    assert (found.faulted.function, found.faulted.line) == (
        expected.stack[0].function,
        expected.stack[0].line,
    )


def test_the_handler_in_the_stack_is_named_as_gdb_names_it(crashed: Crashed, explained: Explained) -> None:
    ours = [frame.function for frame in explained("handler_fails").stack]
    assert ours[:4] == ["fail_itself", "<signal handler called>", "read_null_field", "null_field"]
    assert re.search(
        r"#1  <signal handler called>\n#2 .* in read_null_field ",
        cores.ask_gdb(crashed("handler_fails"))["stack"],
    )


def test_a_division_and_its_divisor(explained: Explained) -> None:
    assert explained("divide").verdict.text.startswith("an integer was divided by zero: idiv")
    assert explained("divide_overflow").verdict.text.endswith("by -1")


@WITH_AND_WITHOUT
def test_a_failed_assertion_in_its_own_words(explained: Explained, debug: bool) -> None:
    found = explained("failed_assertion", debug=debug)
    assert '`zero == 1 && "the answer is known"` failed' in found.verdict.text
    assert "crash.c:" in found.verdict.text
    assert found.verdict.text.endswith("in failed_assertion")


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("double_free", "free(): double free detected in tcache 2"),
        ("invalid_free", "free(): invalid pointer"),
        ("smashed_stack", "*** stack smashing detected ***: terminated"),
        ("fortified", "*** buffer overflow detected ***: terminated"),
    ],
)
@WITH_AND_WITHOUT
def test_what_glibc_printed(way: str, message: str, debug: bool, explained: Explained) -> None:
    assert explained(way, debug=debug).message == message


def test_the_function_that_the_library_failed_in(explained: Explained) -> None:
    for way in ("smashed_stack", "double_free", "failed_assertion"):
        culprit = explained(way).culprit
        assert culprit is not None
        assert culprit.function == {"smashed_stack": "smash"}.get(way, way)
        assert culprit.file.endswith("crash.c")


@pytest.mark.parametrize(
    ("way", "kind", "says"),
    [
        ("derived", "shop::OutOfStock", "no apples left"),
        ("standard", "std::out_of_range", "position 17 of 3"),
        ("plain", "shop::Plain", ""),
        ("integer", "int", "1234"),
        ("literal", "char const*", "a text thrown as it is"),
        ("string", "std::string", "a string that is longer than sixteen bytes"),
        ("allocation", "std::bad_alloc", ""),
    ],
)
@WITH_AND_WITHOUT
def test_an_uncaught_exception(way: str, kind: str, says: str, debug: bool, explained: Explained) -> None:
    found = explained(way, debug=debug, program="throw")
    assert found.verdict.kind == "uncaught_exception", found.verdict
    assert found.exception is not None
    assert (found.exception.type, found.exception.message) == (kind, says)
    assert kind in found.verdict.text
    assert says in found.verdict.text


def test_who_sent_the_signal(explained: Explained) -> None:
    found = explained("killed")
    assert found.process is not None
    assert found.signal is not None
    assert found.signal.sender == found.process.pid
    assert found.signal.code == 0
    assert found.signal.number == signal.SIGSEGV


def test_threads_with_equal_stacks_are_one_group(explained: Explained) -> None:
    found = explained("threads")
    assert [len(group.threads) for group in found.others] == [5]
    assert found.thread not in found.others[0].threads
    assert any(frame.function == "waiting" for frame in found.others[0].frames)


def test_the_path_behind_a_jump_into_nowhere(explained: Explained) -> None:
    for way in ("null_call", "jump_to_heap", "jump_to_unmapped", "jump_to_data"):
        assert [frame.function for frame in explained(way).stack[1:3]] == [way, "main"]
        stripped = explained(way, debug=False).stack
        assert stripped[1].module.endswith("crash-stripped")
        assert stripped[2].module.endswith("crash-stripped")


def test_a_stripped_program_says_what_is_missing(explained: Explained) -> None:
    found = explained("null_field", debug=False)
    assert len(found.defects) == 1
    assert "no debug information for" in found.defects[0]
    assert found.modules[0].build_id in found.defects[0]
    assert explained("null_field").defects == []


def test_every_signal_has_a_name() -> None:
    assert signals.name(signal.SIGSEGV) == "SIGSEGV"
    assert signals.name(40) == "SIGRT8"
    assert signals.name(0) == "signal 0"


def test_what_was_stopped_did_not_crash(tmp_path: Path) -> None:
    with begun(["sleep", "99"]) as target:
        os.kill(target.pid, signal.SIGSTOP)
        os.waitpid(target.pid, os.WUNTRACED)
        command = [sys.executable, "-m", "memdump", "process", str(target.pid), str(tmp_path / "core")]
        subprocess.run(command, check=True, capture_output=True)
    found = explain(tmp_path / "core")
    assert found.signal is not None
    assert (found.signal.number, found.signal.code) == (signal.SIGSTOP, None)
    assert found.verdict.kind == "none"
    assert "SIGSTOP had stopped it" in found.verdict.text
