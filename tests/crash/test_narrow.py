"""Cores of 32-bit programs: all is told of them but who called, beside gdb."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memdump.crash import narrow
from memdump.crash.explanation import Explanation, explain
from memdump.errors import NotADump
from tests.crash import cores
from tests.process.targets import begun, needs_gcc

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = needs_gcc
OPTIONS = (
    "-m32",
    "-O1",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-pic",
    "-no-pie",
    "-nostdlib",
    "-static",
)
WAYS = {
    "null": ("null_pointer", "null_field"),
    "division": ("division_by_zero", "division"),
    "overflow": ("stack_overflow", "overflow"),
    "read_only": ("write_to_read_only", "read_only"),
    "call": ("null_call", ""),
    "trap": ("trap_instruction", "trap"),
    "unmapped": ("unmapped", "unmapped"),
    "inlined": ("null_pointer", "inner"),
    "abort": ("abort", "to_itself"),
}
GENERAL = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip", "eflags")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The program with debug information and without anything; skipped where it cannot be made or run."""
    folder = tmp_path_factory.mktemp("narrow")
    made = {debug: folder / ("debug" if debug else "stripped") for debug in (True, False)}
    for debug, path in made.items():
        command = ["gcc", *OPTIONS, "-w", "-g" if debug else "-s", cores.PROGRAMS / "narrow.c", "-o", path]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("gcc makes no 32-bit programs here")
    try:
        subprocess.run([made[True], "null"], capture_output=True, timeout=cores.PATIENCE)
    except OSError as error:
        pytest.skip(f"this kernel runs no 32-bit programs ({error.strerror})")
    return made


@pytest.fixture(scope="module")
def crash(programs: dict[bool, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., cores.Crash]:
    known: dict[tuple[str, bool], cores.Crash] = {}

    def crashed(way: str, *, debug: bool = True) -> cores.Crash:
        key = way, debug
        if key not in known:
            known[key] = cores.crash(programs[debug], way, tmp_path_factory.mktemp(way))
        return known[key]

    return crashed


def compared(found: Explanation, crashed: cores.Crash) -> None:
    """What gdb tells of the same core."""
    said = cores.ask_gdb(crashed)
    signal = found.signal
    assert signal
    assert f"= {signal.number}\n" in said["signal"]
    if signal.address is not None:
        assert f"= {signal.address:#x}\n" in said["address"]
    registers = {one.name: one.value for one in found.registers}
    for name in GENERAL:
        value = re.search(rf"^{name} +(0x\w+)", said["registers"], re.MULTILINE)
        assert value
        assert registers[name] == int(value[1], 16), name


@pytest.mark.parametrize("way", WAYS)
def test_why_it_crashed(crash: Callable[..., cores.Crash], way: str) -> None:
    crashed = crash(way)
    found = explain(crashed.core)
    kind, function = WAYS[way]
    assert found.architecture == "i686"
    assert found.verdict.kind == kind
    assert found.stack[0].function == function
    assert found.process
    assert found.process.arguments.endswith(f"{crashed.program.name} {way}")
    compared(found, crashed)
    first = cores.ask_gdb(crashed)["stack"].splitlines()[0]
    if function:
        assert f"{function} (" in first
        assert first.endswith(f"narrow.c:{found.stack[0].line}")
        code = {one.address: one.text for one in found.instructions}
        assert found.pc in code
    assert narrow.NOT_UNWOUND in found.defects


def test_what_is_inlined_and_who_called_nothing(crash: Callable[..., cores.Crash]) -> None:
    frames = explain(crash("inlined").core).stack
    assert [(frame.function, frame.inline) for frame in frames] == [("inner", True), ("outer", False)]
    frames = explain(crash("call").core).stack
    assert [frame.function for frame in frames] == ["", "null_call"]
    assert frames[0].pc == 0
    assert frames[1].pc
    place = ["addr2line", "-e", str(crash("call").program), hex(frames[1].pc - 1)]
    told = subprocess.run(place, capture_output=True, text=True, check=True).stdout
    assert told.strip().endswith(f"narrow.c:{frames[1].line}")


def test_words_and_instructions(crash: Callable[..., cores.Crash]) -> None:
    found = explain(crash("null").core)
    assert found.verdict.text.startswith("a read of 4 bytes through a NULL pointer, at offset 20 (0x14)")
    assert found.verdict.text.endswith("is 0")
    found = explain(crash("overflow").core)
    assert "a write of 1 byte" in found.verdict.text
    found = explain(crash("division").core)
    assert "idiv" in found.verdict.text


def test_without_debug_information(crash: Callable[..., cores.Crash]) -> None:
    crashed = crash("null", debug=False)
    found = explain(crashed.core)
    assert found.verdict.kind == "null_pointer"
    assert found.stack[0].module.endswith("/stripped")
    assert found.stack[0].module_offset is not None
    compared(found, crashed)


def test_another_thread(crash: Callable[..., cores.Crash]) -> None:
    crashed = crash("many")
    found = explain(crashed.core)
    assert found.stack[0].function == "null_field"
    (group,) = found.others
    assert [frame.function for frame in group.frames] == ["crash"]
    assert set(map(str, (found.thread, *group.threads))) == set(
        re.findall(r"LWP (\d+)", cores.ask_gdb(crashed)["threads"])
    )


def test_a_core_of_gcore(crash: Callable[..., cores.Crash], tmp_path: Path) -> None:
    crashed = cores.crash_under_gdb(crash("unmapped").program, "unmapped", tmp_path)
    found = explain(crashed.core)
    assert found.verdict.kind == "unmapped"
    assert found.verdict.address == 0xDEADBEEC
    assert found.stack[0].function == "unmapped"
    compared(found, crashed)


def test_our_own_core_and_its_command_line(programs: dict[bool, Path], tmp_path: Path) -> None:
    core = tmp_path / "core"
    with begun([str(programs[True]), "x-spins"]) as target:
        command = [sys.executable, "-m", "memdump", "process", str(target.pid), str(core)]
        subprocess.run(command, check=True, capture_output=True)
        environment = Path(f"/proc/{target.pid}/environ").read_bytes()
    found = explain(core, with_environment=True)
    assert found.verdict.kind == "none"
    assert found.stack[0].function == "crash"
    assert found.started
    assert found.started.arguments == [str(programs[True]), "x-spins"]
    assert [line.encode(errors="surrogateescape") for line in found.started.environment] == environment.split(
        b"\0"
    )[:-1]


def test_the_command(crash: Callable[..., cores.Crash]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "memdump", "explain", crash("read_only").core], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == f"memdump: {narrow.NOT_UNWOUND}\n"
    assert "memory that is read-only" in done.stdout


def test_other_32_bit_cores_are_refused(crash: Callable[..., cores.Crash], tmp_path: Path) -> None:
    data = bytearray(crash("null").core.read_bytes())
    data[18] = 40
    path = tmp_path / "core"
    path.write_bytes(data)
    with pytest.raises(NotADump, match=r"32-bit process on armv7l; .* use gdb$"):
        explain(path)
