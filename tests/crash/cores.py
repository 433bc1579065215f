"""Programs that crash, compiled here, and the cores that they leave: the kernel's own, else gcore's."""

from __future__ import annotations

import functools
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

PROGRAMS = Path(__file__).parent / "programs"
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
SOURCES = {"crash": ("gcc", "crash.c"), "throw": ("g++", "throw.cpp")}
DEBUG = ["-g", "-O0", "-fno-omit-frame-pointer"]
STRIPPED = ["-O1", "-fno-builtin", "-s"]
OPTIONS = ["-w", "-pthread", "-fstack-protector-all"]
PATIENCE = 60


class Crash(NamedTuple):
    """A program that crashed, and its core."""

    program: Path
    way: str
    core: Path


def compiled(folder: Path, name: str, *, debug: bool) -> Path:
    """A program of `PROGRAMS`, with or without debug information."""
    compiler, source = SOURCES[name]
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed: apt install {compiler}")
    target = folder / (name if debug else f"{name}-stripped")
    if not target.exists():
        options = DEBUG if debug else STRIPPED
        command = [compiler, *options, *OPTIONS, "-o", str(target), str(PROGRAMS / source)]
        subprocess.run(command, check=True, capture_output=True)
    return target


@functools.cache
def kernel_writes_cores() -> bool:
    """Whether the kernel puts a core into the working directory; what is set there is never changed."""
    return re.fullmatch(r"core(\.%p)?", CORE_PATTERN.read_text().strip()) is not None


def crash(program: Path, way: str, folder: Path) -> Crash:
    """Let a program crash in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    if not kernel_writes_cores():
        return crash_under_gdb(program, way, folder)
    subprocess.run(
        [program, way], cwd=folder, capture_output=True, check=False, preexec_fn=_allow_core, timeout=PATIENCE
    )
    found = sorted(folder.glob("core*"))
    return Crash(program, way, found[0]) if found else crash_under_gdb(program, way, folder)


def _allow_core() -> None:
    """Root may raise the limit again that reading an encrypted image lowers."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    most = resource.RLIM_INFINITY if os.geteuid() == 0 else hard
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))


def crash_under_gdb(program: Path, way: str, folder: Path) -> Crash:
    """The same, with a core that gdb's gcore writes when the signal comes."""
    folder.mkdir(parents=True, exist_ok=True)
    core = folder / "gcore"
    before = ["-ex", "set startup-with-shell off", "-ex", "run"]
    gdb(*before, "-ex", f"gcore {core}", "-ex", "kill", "--args", str(program), way, folder=folder)
    if not core.exists():
        pytest.skip(f"neither the kernel nor gdb wrote a core of {program.name} {way}")
    return Crash(program, way, core)


def gdb(*arguments: str, folder: Path | None = None) -> str:
    """What gdb prints."""
    if not shutil.which("gdb"):
        pytest.skip("gdb is not installed: apt install gdb")
    command = ["gdb", "-nx", "-nh", "--batch", "-iex", "set debuginfod enabled off", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, timeout=PATIENCE, errors="replace"
    )
    return done.stdout


QUESTIONS = {
    "stack": "bt 12",
    "registers": "info registers",
    "signal": "p $_siginfo.si_signo",
    "code": "p $_siginfo.si_code",
    "address": "p/x (unsigned long)$_siginfo._sifields._sigfault.si_addr",
    "arguments": "info args",
    "locals": "info locals",
    "threads": "info threads",
    "instructions": "disassemble $pc-0x22,+0x50",
}


@functools.cache
def ask_gdb(crash: Crash) -> dict[str, str]:
    """What gdb says of the core to all questions."""
    given = ["-ex", "set filename-display relative"]
    for name, question in QUESTIONS.items():
        given += ["-ex", f"echo ={name}=\\n", "-ex", question]
    said = re.split(r"^=(\w+)=\n", gdb(str(crash.program), str(crash.core), *given), flags=re.MULTILINE)
    return dict(zip(said[1::2], said[2::2], strict=True))
