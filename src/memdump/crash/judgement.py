"""What a signal was about: the fault itself, what the runtime of C and C++ left, the program's handlers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from memdump.crash import abort, exception, fault, handler, instructions, narrow, null_field, signals, stacks

if TYPE_CHECKING:
    from memdump.crash.exception import Thrown
    from memdump.crash.fault import Moment, Verdict
    from memdump.crash.handler import Handled
    from memdump.crash.notes import SignalInfo
    from memdump.crash.program import CrashProgram
    from memdump.crash.stacks import Frame

SILENT = "abort"
"""The verdict on an abort of which nothing more is known."""


class Judgement(NamedTuple):
    """Why it crashed, and what says so."""

    verdict: Verdict
    message: str = ""
    exception: Thrown | None = None
    faulted: Frame | None = None
    """Where the first fault was, if a handler of the program was called for it."""


def judge(program: CrashProgram, trace: Any, registers: dict[str, int]) -> Judgement:
    """Judge the signal that ended the process; ``trace`` and ``registers`` are the crashed thread's."""
    signal = program.core.signal
    if signal is None:
        return Judgement(
            fault.Verdict("none", "it did not crash: this is the memory of a process that ran on")
        )
    moment = _moment(program, signal, trace, 0, registers)
    if moment is None:
        return Judgement(fault.Verdict("unknown", "the core lacks the registers of the thread that crashed"))
    if signals.name(signal.number) == "SIGABRT":
        found = _aborted(program, moment)
    else:
        found = Judgement(_faulted(program, moment, trace, 0))
    first = _handled(program, moment, trace) if _by_itself(moment) else None
    return _with_handler(program, found, first, moment, trace) if first else found


def _moment(
    program: CrashProgram, signal: SignalInfo, trace: Any, number: int, registers: dict[str, int]
) -> Moment | None:
    """The thread in a frame of its stack; None where the core does not tell where it was."""
    pc = next((registers[name] for name in ("rip", "pc", narrow.PC) if name in registers), None)
    sp = next((registers[name] for name in ("rsp", "sp", narrow.SP) if name in registers), None)
    if pc is None or sp is None:
        return None
    current = instructions.current(program, pc, registers)
    source = _loaded_from(program, pc, registers, current)
    return fault.Moment(
        program.core,
        signal,
        pc,
        sp,
        registers,
        current,
        program.word(source) if source else None,
        stacks.stack_pointer(trace, number + 1),
    )


def _loaded_from(
    program: CrashProgram, pc: int, registers: dict[str, int], current: instructions.Current | None
) -> int:
    """Where the pointer that was used came from; 0 where that is not known."""
    accesses = current.accesses if current else ()
    base = accesses[0].base if accesses else ""
    if not base:
        return 0
    listing = instructions.around(program, pc, program.function_at(pc))
    before = [one for one in listing if one.address < pc]
    return instructions.source(program, before, base, registers)


def _aborted(program: CrashProgram, moment: Moment) -> Judgement:
    """What the runtime of C and C++ left to tell of an abort."""
    message = abort.message(program)
    thrown = None if message else exception.uncaught(program, moment.sp)
    if thrown:
        says = f": {thrown.message}" if thrown.message else ""
        text = f"an exception of type {thrown.type} was thrown and not caught{says}"
        return Judgement(fault.Verdict("uncaught_exception", text), message, thrown)
    if not message and moment.signal.sender is not None and not _by_itself(moment):
        return Judgement(fault.judge(moment))
    found = abort.meaning(message)
    return Judgement(fault.Verdict(found.kind, found.text), message)


def _faulted(program: CrashProgram, moment: Moment, trace: Any, number: int) -> Verdict:
    """The verdict on a fault, with the field by whose use it came about."""
    verdict = fault.judge(moment)
    if verdict.kind != "null_pointer" or trace is None or verdict.address is None:
        return verdict
    source = _loaded_from(program, moment.pc, dict(moment.registers), moment.instruction)
    names = null_field.candidates(trace[number], verdict.address, source)
    if not names:
        return verdict
    note = f"by the types of the variables it is {' or '.join(names)}"
    return replace(verdict, notes=(*verdict.notes, note))


def _by_itself(moment: Moment) -> bool:
    """Whether no other process ended it."""
    process = moment.core.process
    return moment.signal.sender is None or process is None or moment.signal.sender == process.pid


def _handled(program: CrashProgram, moment: Moment, trace: Any) -> Handled | None:
    """The fault that a handler was called for, before the signal that ended the process."""
    # A signal that is sent again inside of its own handler comes when the handler has returned: to where the
    # fault was.  One of a fault comes there without any handler.
    sent = moment.signal.sender is not None and signals.name(moment.signal.number) != "SIGABRT"
    return handler.handled(program, trace, dict(moment.registers), returned=sent)


def _with_handler(
    program: CrashProgram, last: Judgement, first: Handled, moment: Moment, trace: Any
) -> Judgement:
    """The first fault is why it crashed; what ended the process is said with it."""
    before = _moment(program, first.signal, trace, first.frame, first.registers)
    if before is None:
        return last
    verdict = _faulted(program, before, trace, first.frame)
    ran = f"then a handler of {signals.name(first.signal.number)} ran, and"
    if moment.signal.sender is not None and last.verdict.kind == "raised":
        how = f"{ran} sent {signals.name(moment.signal.number)} to end the program"
    elif last.verdict.kind == SILENT:
        how = f"{ran} aborted the program"
    else:
        how = f"{ran} failed itself: {last.verdict.text}"
    return last._replace(
        verdict=replace(verdict, notes=(*verdict.notes, how)),
        faulted=stacks.frame_of(program, trace, first.frame),
    )
