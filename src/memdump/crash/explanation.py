"""Why a process crashed: all that its core tells of it, put together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from memdump.crash import (
    environment,
    fault,
    files,
    instructions,
    judgement,
    narrow,
    python,
    registers,
    stacks,
)
from memdump.crash.core import Core
from memdump.crash.program import FAULTS, CrashProgram
from memdump.crash.unpacked import Unpacked
from memdump.errors import NotADump

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.crash.environment import Started
    from memdump.crash.exception import Thrown
    from memdump.crash.fault import Verdict
    from memdump.crash.files import Files
    from memdump.crash.instructions import Instruction
    from memdump.crash.modules import CrashModule
    from memdump.crash.notes import ProcessInfo, SignalInfo
    from memdump.crash.python import PythonStacks
    from memdump.crash.stacks import Frame, Group
    from memdump.image.layers import Ask, Key

MOST_THREADS = 4096
"""The stacks of no more threads are unwound."""
LONGEST_CYCLE = 8
SHORTEST_RECURSION = 50
"""Frames; so many in a row that repeat make a recursion worth a word."""


@dataclass(frozen=True, slots=True)
class Register:
    """A register of the crashed thread."""

    name: str
    value: int
    where: str
    """What it points into, in words; empty where it points to nothing."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of a crash."""

    path: str
    packing: str
    architecture: str
    process: ProcessInfo | None
    signal: SignalInfo | None
    verdict: Verdict
    message: str
    """What the C library or GLib printed before it aborted."""
    exception: Thrown | None
    thread: int | None
    """The thread that crashed."""
    faulted: Frame | None
    """Where the first fault was, if a handler of the program was called for it; None where none was."""
    stack: tuple[Frame, ...]
    instructions: list[Instruction]
    registers: list[Register]
    others: list[Group]
    """The other threads, equal stacks together."""
    modules: list[CrashModule]
    python: PythonStacks | None
    """None where no Python ran in it."""
    started: Started | None = None
    """Only where it was asked for."""
    files: Files | None = None
    """Only where it was asked for."""
    defects: list[str] = field(default_factory=list)
    """What is missing from the answer, and why."""

    @property
    def culprit(self) -> Frame | None:
        """The function to look at, where it is not the innermost one.

        That is where a fault was that a handler was called for, else the innermost function of the program
        itself, where the crash was in the libraries of C or C++.
        """
        if self.faulted is not None:
            return self.faulted
        if self.signal is None or not self.stack or not self.stack[0].of_runtime:
            return None
        return next((frame for frame in self.stack if frame.pc and not frame.of_runtime), None)

    @property
    def pc(self) -> int | None:
        """Where the crashed thread was."""
        return self.stack[0].pc if self.stack else None


def explain(
    path: Path,
    *,
    identity: Key = None,
    ask: Ask | None = None,
    root: Path | None = None,
    with_environment: bool = False,
    with_files: bool = False,
) -> Explanation:
    """Explain the core of a process.

    ``root`` is the root file system of the machine that it is from; without it, the files of this machine are
    used where their build ids agree.  Raises `memdump.errors.NotADump` where it is no core of a process.
    """
    unpacked = Unpacked(path, identity, ask)
    try:
        core = Core(path, unpacked.content)
        if not core.belongs_to_process:
            raise NotADump(f"{path}: is a core, but not of a process: nothing in it tells of one")
        program = CrashProgram(core, unpacked.file, root)
        try:
            found = _explain(program)
            if with_environment:
                found = replace(found, started=environment.started(program))
            if with_files:
                found = replace(found, files=files.files(program))
            found = _with_python(found, unpacked, core.bits)
        finally:
            program.close()
    finally:
        unpacked.close()
    return replace(found, packing=unpacked.packing, defects=[*unpacked.defects, *found.defects])


def _explain(program: CrashProgram) -> Explanation:
    core = program.core
    tids = [thread.tid for thread in core.threads][:MOST_THREADS]
    trace = stacks.trace(program, tids[0]) if tids else None
    top = trace[0] if trace is not None and len(trace) else None
    values = (registers.of_thread(core, tids[0]) if tids else {}) or _registers(top)
    stack = stacks.crashed(program, trace, values)
    judged = judgement.judge(program, trace, values)
    return Explanation(
        path=str(core.path),
        packing="",
        architecture=core.architecture,
        process=core.process,
        signal=core.signal,
        verdict=_with_recursion(judged.verdict, stack),
        message=judged.message,
        exception=judged.exception,
        thread=tids[0] if tids else None,
        faulted=judged.faulted,
        stack=stack,
        instructions=_instructions(program, stack),
        registers=[Register(name, value, _where(program, value)) for name, value in values.items()],
        others=stacks.group(program, tids[1:]),
        modules=program.modules,
        python=None,
        defects=_defects(program, stack),
    )


def _with_python(found: Explanation, unpacked: Unpacked, bits: int) -> Explanation:
    known = python.stacks(unpacked.file, found.modules, unpacked.descriptors, bits)
    defects = found.defects
    if known and known.error:
        defects = [*defects, f"the stacks of Python cannot be read: {known.error}"]
    return replace(found, python=known, defects=defects)


def _registers(frame: Any) -> dict[str, int]:
    try:
        return dict(frame.registers()) if frame is not None else {}
    except FAULTS:
        return {}


def _instructions(program: CrashProgram, stack: tuple[Frame, ...]) -> list[Instruction]:
    if not stack or stack[0].pc is None:
        return []
    top = stack[0]
    function = top.pc - top.offset if top.offset is not None and top.pc is not None else None
    return instructions.around(program, stack[0].pc, function)


def _where(program: CrashProgram, value: int) -> str:
    if value < fault.NULL_END:
        return ""
    region = program.core.region(value)
    if region is None:
        return ""
    symbol = program.symbol_at(value)
    return f"{symbol} in {region.name}" if symbol else region.name


def _with_recursion(verdict: Verdict, stack: tuple[Frame, ...]) -> Verdict:
    cycle = recursion(stack)
    if verdict.kind != "stack_overflow" or not cycle:
        return verdict
    names = [frame.function or f"{frame.module}+{frame.module_offset or 0:#x}" for frame in cycle]
    how = f"{names[0]} calls itself" if len(names) == 1 else f"{' and '.join(names)} call each other"
    return replace(verdict, notes=(*verdict.notes, f"endless recursion: {how}"))


def recursion(stack: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """The frames that repeat, once, where most of the stack is a repetition."""
    places = [frame.place for frame in stack]
    for start in range(LONGEST_CYCLE):
        for period in range(1, LONGEST_CYCLE + 1):
            end = start + SHORTEST_RECURSION
            if end + period <= len(places) and places[start:end] == places[start + period : end + period]:
                return stack[start : start + period]
    return ()


def _defects(program: CrashProgram, stack: tuple[Frame, ...]) -> list[str]:
    """What is missing: of the core, and of the modules that the crashed thread was in."""
    found = list(program.core.defects)
    if program.core.bits != 64:
        found.append(narrow.NOT_UNWOUND)
    if not stack:
        found.append("the crashed thread's stack is not known: the core has no registers of it")
    nameless = {frame.module for frame in stack if not frame.function and not frame.of_runtime}
    on_stack = {frame.module for frame in stack}
    for module in program.modules:
        if module.name not in on_stack and not (module.missing and module is program.modules[0]):
            continue
        name = module.name or f"the module at {module.start:#x}"
        wanted = f" (its build id is {module.build_id})" if module.build_id else ""
        if module.missing:
            found.append(f"no file of {name}{wanted}: {module.missing}; its functions are not named")
        elif module.name in nameless and not module.debug_information:
            found.append(f"no debug information for {name}{wanted}: functions are given as offsets in it")
    return found
