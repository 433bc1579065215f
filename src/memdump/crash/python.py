"""What Python was doing in a process that ran CPython: the stack of each thread, with file and line.

pystack reads it; it does so in a process of its own, since a hostile core may make it fail or run for ever.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memdump.crash.stacks import Variable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memdump.crash.modules import CrashModule

INTERPRETER = re.compile(r"(python[\d.]*\w?|libpython[\d.]*\w*\.so[\d.]*|uwsgi.*|mod_wsgi.*)")
PYSTACK_BITS = 64
"""Of a program that pystack reads, which has those of its own."""
PATIENCE = 120
"""Seconds; pystack takes less than one for a core of common size."""
MOST_OUTPUT = 64 << 20
LONGEST_VALUE = 160


@dataclass(frozen=True, slots=True)
class PythonFrame:
    """A function of Python that was called and has not returned."""

    function: str
    file: str
    line: int
    arguments: tuple[Variable, ...]
    variables: tuple[Variable, ...]

    @property
    def place(self) -> tuple[str, str, int]:
        """What two threads that do the same have in common."""
        return self.function, self.file, self.line


@dataclass(frozen=True, slots=True)
class PythonThread:
    """A thread that runs Python; frames are innermost first."""

    tid: int
    name: str
    has_gil: bool
    collecting: bool
    """Whether it was collecting garbage."""
    frames: tuple[PythonFrame, ...]


@dataclass(frozen=True, slots=True)
class PythonStacks:
    """The threads of the interpreter, or why they cannot be had."""

    version: str
    threads: tuple[PythonThread, ...]
    error: str = ""


def stacks(
    core: Path, modules: Sequence[CrashModule], inherited: Sequence[int], bits: int = 64
) -> PythonStacks | None:
    """The Python stacks; None where no interpreter is in the process.

    ``inherited`` are descriptors that ``core`` may name, ``bits`` those of the process.
    """
    interpreter = next((found for found in modules if INTERPRETER.fullmatch(found.short_name)), None)
    if interpreter is None:
        return None
    if bits != PYSTACK_BITS:
        return PythonStacks("", (), "pystack reads 64-bit programs only")
    if missing := interpreter.missing or modules[0].missing:
        return PythonStacks("", (), f"the interpreter's file is not here: {missing}")
    program = next((module.file for module in modules if module.name == _program(modules)), modules[0].file)
    command = [sys.executable, "-m", "memdump.crash.pystack_process", str(core), program]
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and our own program
            command, capture_output=True, timeout=PATIENCE, check=False, pass_fds=tuple(inherited)
        )
    except subprocess.TimeoutExpired:
        return PythonStacks("", (), f"pystack does not come to an end within {PATIENCE} seconds")
    if done.returncode or len(done.stdout) > MOST_OUTPUT:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return PythonStacks("", (), last[0] if last else f"pystack ended with status {done.returncode}")
    return _parsed(json.loads(done.stdout))


def _program(modules: Sequence[CrashModule]) -> str:
    """The program itself: libraries are named so."""
    return next((module.name for module in modules if ".so" not in module.short_name), modules[0].name)


def _parsed(told: Any) -> PythonStacks:
    threads = tuple(
        PythonThread(
            thread["tid"],
            thread["name"] or "",
            thread["has_gil"],
            thread["collecting"],
            tuple(_frame(frame) for frame in thread["frames"]),
        )
        for thread in told["threads"]
    )
    return PythonStacks(told["version"], threads)


def _frame(told: Any) -> PythonFrame:
    return PythonFrame(
        told["function"],
        told["file"],
        told["line"],
        _variables(told["arguments"]),
        _variables(told["locals"]),
    )


def _variables(told: dict[str, str]) -> tuple[Variable, ...]:
    return tuple(
        Variable(name, "", value if len(value) <= LONGEST_VALUE else value[: LONGEST_VALUE - 1] + "…")
        for name, value in told.items()
    )
