"""What each thread was doing: its stack, with functions, lines, arguments and variables where known."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import drgn

from memdump.crash import handler, lost, narrow, registers
from memdump.crash.core import EXECUTE
from memdump.crash.demangle import demangle
from memdump.crash.program import FAULTS
from memdump.crash.values import show, type_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memdump.crash.program import CrashProgram

MOST_DETAILED = 64
"""So many frames, from the innermost, are told of with their variables."""
MOST_VARIABLES = 64
HANDLER_CALLED = "<signal handler called>"
"""The code to which a handler returns; it has no name, and gdb calls it so."""
MOST_HANDLERS = 8
SIGRETURN = {"x86_64": bytes.fromhex("48c7c00f0000000f05"), "aarch64": bytes.fromhex("681180d2010000d4")}
"""What handlers return to: ``mov $15, %rax; syscall``, and ``mov x8, #139; svc #0``."""
LONGEST_RETURN = 9
RUNTIME = re.compile(r"(libc|libpthread|libm|libgcc_s|libstdc\+\+|libc\+\+(abi)?|ld-linux.*|ld-musl.*)[.-]")


@dataclass(frozen=True, slots=True)
class Variable:
    """An argument or a local variable."""

    name: str
    type: str
    value: str


@dataclass(frozen=True, slots=True)
class Frame:
    """A function that was called and has not returned."""

    pc: int | None
    function: str
    """Empty where it is not known."""
    offset: int | None
    """How far ``pc`` is behind the beginning of the function."""
    module: str
    """The file that the code is in; empty where it is in none."""
    module_offset: int | None
    """Where in that file, as addr2line takes it."""
    file: str
    line: int | None
    inline: bool
    arguments: tuple[Variable, ...]
    variables: tuple[Variable, ...]

    @property
    def of_runtime(self) -> bool:
        """Whether it is in the libraries of C and C++, which fail because of what they are given."""
        return RUNTIME.match(self.module.rsplit("/", 1)[-1]) is not None

    @property
    def place(self) -> tuple[str, str, int | None]:
        """What two threads that do the same have in common."""
        return self.function, self.module, None if self.function else self.module_offset


@dataclass(frozen=True, slots=True)
class Group:
    """Threads with equal stacks."""

    threads: tuple[int, ...]
    frames: tuple[Frame, ...]


def trace(program: CrashProgram, tid: int) -> Any:
    """The frames of a thread's stack as drgn has them; None where there are none."""
    try:
        found = list(program.drgn.thread(tid).stack_trace())
    except FAULTS:
        return None
    return _behind_handlers(program, found) if program.core.architecture == "aarch64" else found


def _behind_handlers(program: CrashProgram, found: list[Any]) -> list[Any]:
    """Let the stack go on where a signal came: on arm64 drgn goes on with the caller of what was interrupted.

    The kernel's code there has no unwind information, by design (``arch/arm64/kernel/vdso/sigreturn.S``).
    """
    start = 0
    for _ in range(MOST_HANDLERS):
        for number in range(start, len(found)):
            pc, sp = _or_none(lambda: int(found[number].pc)), stack_pointer(found, number)  # noqa: B023
            if pc is not None and sp is not None and _is_return_of_handler(program, pc):
                break
        else:
            return found
        saved = handler.saved_arm64(program, sp)
        rest = lost.unwound(program, saved) if saved else None
        if rest is None:
            return found
        found, start = [*found[: number + 1], *rest], number + 1
    return found


def _is_return_of_handler(program: CrashProgram, pc: int) -> bool:
    """Whether the code at ``pc`` is what handlers return to: nothing but the system call ``rt_sigreturn``."""
    code = program.read(pc, LONGEST_RETURN)
    wanted = SIGRETURN.get(program.core.architecture)
    return code is not None and wanted is not None and wanted in code


def stack_pointer(stack: Any, number: int) -> int | None:
    """The stack pointer of a frame as drgn has it; None where that is not known."""
    return _or_none(lambda: int(stack[number].sp)) if stack is not None else None


def frame_of(program: CrashProgram, stack: Any, number: int) -> Frame:
    """One frame of a stack as drgn has it."""
    return _frame(program, stack[number], True)


def crashed(program: CrashProgram, stack: Any, values: Mapping[str, int]) -> tuple[Frame, ...]:
    """The frames of the crashed thread, also where the processor was led to where no code is."""
    if program.core.bits != 64:
        return _narrow(program, values)
    top = frames(program, stack)
    region = program.core.region(top[0].pc) if top and top[0].pc is not None else None
    if not top or (region and region.flags & EXECUTE):
        return top
    address = lost.return_address(program, values)
    rest = frames(program, lost.caller(program, values, address)) if address else ()
    if not rest or rest[0].pc is None:
        return top
    first = rest[0]
    offset = None if first.offset is None else first.offset + 1
    module_offset = None if first.module_offset is None else first.module_offset + 1
    return (top[0], replace(first, pc=address, offset=offset, module_offset=module_offset), *rest[1:])


def frames(program: CrashProgram, stack: Any, detailed: int = MOST_DETAILED) -> tuple[Frame, ...]:
    """The frames of a stack, innermost first, ``detailed`` of them with their variables."""
    if stack is None:
        return ()
    found = [_frame(program, frame, number < detailed) for number, frame in enumerate(stack)]
    for number, frame in enumerate(stack):
        before = found[number - 1]
        if number and frame.interrupted and before.pc and _is_return_of_handler(program, before.pc):
            found[number - 1] = replace(before, function=HANDLER_CALLED)
    if len(found) > 1 and found[-1].pc is None:  # the end of the outermost function's caller
        found.pop()
    return tuple(found)


def _narrow(program: CrashProgram, values: Mapping[str, int]) -> tuple[Frame, ...]:
    """Where a thread of a 32-bit program was, and who led it into nowhere: drgn does not unwind its stack."""
    pc = values.get(narrow.PC)
    if pc is None:
        return ()
    region = program.core.region(pc)
    if region and region.flags & EXECUTE:
        return _at(program, pc, pc)
    caller = lost.return_address(program, values)
    return _at(program, pc, pc) + (_at(program, caller, caller - 1) if caller else ())


def _at(program: CrashProgram, pc: int, place: int) -> tuple[Frame, ...]:
    """The frames of an address: the function that ``place`` is in, and what was inlined there."""
    symbol = _or_none(lambda: program.drgn.symbol(place))
    module = program.module_at(place)
    sources = _or_none(lambda: list(program.drgn.source_location(place))) or [None]
    return tuple(
        Frame(
            pc=pc,
            function=(source and _or_none(source.name)) or (demangle(symbol.name) if symbol else ""),
            offset=pc - symbol.address if symbol else None,
            module=module.name if module else "",
            module_offset=pc - module.base if module else None,
            file=source.filename if source else "",
            line=source.line if source else None,
            inline=number < len(sources) - 1,
            arguments=(),
            variables=(),
        )
        for number, source in enumerate(sources)
    )


def _of(program: CrashProgram, tid: int, detailed: int) -> tuple[Frame, ...]:
    """The frames of a thread that did not crash."""
    if program.core.bits != 64:
        return _narrow(program, registers.of_thread(program.core, tid))
    return frames(program, trace(program, tid), detailed)


def _frame(program: CrashProgram, frame: Any, detailed: bool) -> Frame:
    pc = _or_none(lambda: int(frame.pc))
    function, offset = _function(frame, pc)
    module = program.module_at(pc) if pc is not None else None
    source = _or_none(frame.source)
    arguments, variables = _variables(program, frame) if detailed else ((), ())
    return Frame(
        pc,
        function,
        offset,
        module.name if module else "",
        pc - module.base if module and pc is not None else None,
        source.filename if source else "",
        source.line if source else None,
        frame.is_inline,
        arguments,
        variables,
    )


def _or_none(read: Any) -> Any:
    try:
        return read()
    except FAULTS:
        return None


def _function(frame: Any, pc: int | None) -> tuple[str, int | None]:
    symbol = _or_none(frame.symbol)
    offset = pc - symbol.address if symbol and pc is not None else None
    if frame.function_name:
        return frame.function_name, offset
    return (demangle(symbol.name), offset) if symbol else ("", None)


def _variables(program: CrashProgram, frame: Any) -> tuple[tuple[Variable, ...], tuple[Variable, ...]]:
    """The arguments in their order, and the other variables."""
    names = dict.fromkeys((_or_none(frame.locals) or [])[:MOST_VARIABLES])
    if not names:
        return (), ()
    parameters = _or_none(lambda: frame[frame.function_name].type_.parameters) or ()
    first = [parameter.name for parameter in parameters if parameter.name in names]
    found = {name: variable for name in names if (variable := _variable(program, frame, name))}
    return (
        tuple(found.pop(name) for name in first if name in found),
        tuple(found.values()),
    )


def _variable(program: CrashProgram, frame: Any, name: str) -> Variable | None:
    value = _or_none(lambda: frame[name])
    if not isinstance(value, drgn.Object):
        return None
    return Variable(name, type_name(value), show(program, value))


def group(program: CrashProgram, tids: Sequence[int]) -> list[Group]:
    """The stacks of threads, equal ones together, those of most threads first.

    The variables are those of the first thread of each group.
    """
    found: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for tid in tids:
        found[tuple(frame.place for frame in _of(program, tid, 0))].append(tid)
    groups = [Group(tuple(threads), _of(program, threads[0], MOST_DETAILED)) for threads in found.values()]
    return sorted(groups, key=lambda one: -len(one.threads))
