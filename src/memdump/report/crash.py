"""Why something crashed, for people: the answer first, then the evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.crash import signals
from memdump.crash.values import OPTIMISED_OUT
from memdump.report.styled import Line, Span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memdump.crash.explanation import Explanation
    from memdump.crash.python import PythonThread
    from memdump.crash.stacks import Frame

LABEL = 10
MOST_FRAMES = 40
LAST_FRAMES = 5
"""Of a longer stack the beginning is shown, and so many of the outermost frames."""
MOST_FRAMES_OF_OTHERS = 12
MOST_GROUPS = 20
MOST_MODULES = 40
MOST_THREADS = 8


def lines(found: Explanation) -> Iterator[Line]:
    """All of it; a line may be longer than the terminal is wide."""
    yield from _answer(found)
    yield from _python(found)
    yield ()
    yield _title("STACK", f"of thread {found.thread}" if found.thread is not None else "")
    yield from _stack(found.stack, MOST_FRAMES)
    yield from _others(found)
    yield from _code(found)
    yield from _registers(found)
    yield from _modules(found)
    yield from _started(found)
    yield from _files(found)


def _title(title: str, text: str = "") -> Line:
    return Span(f"{title:<{LABEL + 2}}", "title"), Span(text)


def _fact(label: str, text: str, style: str = "") -> Line:
    return Span(f"  {label:<{LABEL}}", "faint"), Span(text, style)


def _answer(found: Explanation) -> Iterator[Line]:
    yield _title("CRASH", found.path + (f" (packed with {found.packing})" if found.packing else ""))
    if process := found.process:
        words = process.arguments or process.name
        yield _fact("program", f"{words} (pid {process.pid}, user {process.user}, {found.architecture})")
    if found.signal:
        yield _fact("signal", _signal(found))
    yield _fact("why", found.verdict.text, "alert")
    for note in found.verdict.notes:
        yield _fact("", note)
    if culprit := found.culprit:
        where = f" at {culprit.file}:{culprit.line}" if culprit.file else ""
        yield _fact("from", name_of(culprit) + where)
    if found.message:
        yield _fact("message", found.message)


def _signal(found: Explanation) -> str:
    signal = found.signal
    if signal is None:
        return ""
    name, says = signals.code(signal)
    parts = [signals.name(signal.number)]
    if words := signals.words(signal.number):
        parts[0] += f", {words}"
    if name:
        parts.append(f"{name}, {says}" if says else name)
    if signal.address is not None and signal.code != signals.SI_KERNEL:
        parts.append(f"address {signal.address:#x}")
    if signal.sender is not None:
        parts.append(f"by process {signal.sender}")
    return "; ".join(parts)


def _stack(stack: Sequence[Frame], most: int) -> Iterator[Line]:
    if not stack:
        yield (Span("  not known"),)
    left_out = len(stack) - most
    for number, frame in enumerate(stack):
        if left_out > 0 and number == most - LAST_FRAMES:
            yield (Span(f"       … {left_out} more …", "faint"),)
        if left_out > 0 and most - LAST_FRAMES <= number < len(stack) - LAST_FRAMES:
            continue
        yield from _frame(number, frame)


def _frame(number: int, frame: Frame) -> Iterator[Line]:
    where = f" at {frame.file}:{frame.line}" if frame.file else ""
    if not where and frame.module:
        where = f" in {frame.module}"
    name = f"{frame.function} ({_arguments(frame)})" if frame.file else name_of(frame)
    inline = " (inlined)" if frame.inline else ""
    yield Span(f"  {number:>3}  "), Span(name), Span(where + inline, "faint")
    for variable in () if frame.of_runtime else frame.variables:
        if variable.value == OPTIMISED_OUT:
            continue
        yield Span("         "), Span(f"{variable.name} = {variable.value}", "faint")


def name_of(frame: Frame) -> str:
    """A frame in a word: its function, else where it is in its module, else its address."""
    if frame.function:
        return f"{frame.function}+{frame.offset:#x}" if frame.offset is not None else frame.function
    if frame.module and frame.module_offset is not None:
        return f"{frame.module.rsplit('/', 1)[-1]}+{frame.module_offset:#x}"
    return f"{frame.pc:#x}" if frame.pc is not None else "an unknown place"


def _arguments(frame: Frame) -> str:
    return ", ".join(f"{argument.name}={argument.value}" for argument in frame.arguments)


def _others(found: Explanation) -> Iterator[Line]:
    count = sum(len(group.threads) for group in found.others)
    if not count:
        return
    yield ()
    yield _title("THREADS", f"{count} other{'s' * (count != 1)}")
    for group in found.others[:MOST_GROUPS]:
        yield Span("  "), Span(_count(group.threads))
        yield from _stack(group.frames, MOST_FRAMES_OF_OTHERS)
    if len(found.others) > MOST_GROUPS:
        yield (Span(f"  … {len(found.others) - MOST_GROUPS} more stacks: --format json has all", "faint"),)


def _python(found: Explanation) -> Iterator[Line]:
    if found.python is None or not found.python.threads:
        return
    yield ()
    yield _title("PYTHON", found.python.version)
    alike: dict[tuple[object, ...], list[PythonThread]] = {}
    for thread in sorted(found.python.threads, key=lambda one: (one.tid != found.thread, one.tid)):
        alike.setdefault(tuple(frame.place for frame in thread.frames), []).append(thread)
    for group in alike.values():
        first = group[0]
        state = [_count([thread.tid for thread in group])]
        state += ["which crashed"] * (found.signal is not None and first.tid == found.thread)
        state += ["has the GIL"] * first.has_gil + ["collects garbage"] * first.collecting
        yield Span("  "), Span(", ".join(state))
        for number, frame in enumerate(first.frames[:MOST_FRAMES]):
            arguments = ", ".join(f"{one.name}={one.value}" for one in frame.arguments)
            where = f" at {frame.file}:{frame.line}"
            yield Span(f"  {number:>3}  "), Span(f"{frame.function} ({arguments})"), Span(where, "faint")
            if first.tid == found.thread:
                for one in frame.variables:
                    yield Span("         "), Span(f"{one.name} = {one.value}", "faint")
        if len(first.frames) > MOST_FRAMES:
            yield (Span(f"       … {len(first.frames) - MOST_FRAMES} more …", "faint"),)


def _count(tids: Sequence[int]) -> str:
    """Threads that do the same, by their numbers."""
    shown = ", ".join(map(str, tids[:MOST_THREADS]))
    more = f" and {len(tids) - MOST_THREADS} more" if len(tids) > MOST_THREADS else ""
    return (f"{len(tids)} threads alike: " if len(tids) > 1 else "thread ") + shown + more


def _code(found: Explanation) -> Iterator[Line]:
    if not found.instructions:
        return
    yield ()
    yield _title("CODE", "around the program counter")
    for one in found.instructions:
        here = one.address == found.pc
        yield (
            Span("  => " if here else "     "),
            Span(f"{one.address:#x}  {one.text}", "alert" if here else ""),
        )


def _registers(found: Explanation) -> Iterator[Line]:
    if not found.registers:
        return
    yield ()
    yield _title("REGISTERS")
    for register in found.registers:
        yield Span(f"  {register.name:<{LABEL}}{register.value:#018x}  "), Span(register.where, "faint")


def _modules(found: Explanation) -> Iterator[Line]:
    if not found.modules:
        return
    yield ()
    yield _title("MODULES", f"{len(found.modules)}, with their build ids")
    for module in found.modules[:MOST_MODULES]:
        remark = module.missing or ("" if module.debug_information else "no debug information")
        yield (
            Span(f"  {module.start:#014x}  {module.build_id or 'no build id':<40}  {module.name}"),
            Span(f"  ({remark})" if remark else "", "faint"),
        )
    if len(found.modules) > MOST_MODULES:
        yield (Span(f"  … {len(found.modules) - MOST_MODULES} more: --format json has all", "faint"),)


def _started(found: Explanation) -> Iterator[Line]:
    if not found.started:
        return
    yield ()
    yield _title("ARGUMENTS")
    yield from ((Span(f"  {text}"),) for text in found.started.arguments)
    yield ()
    yield _title("ENVIRONMENT")
    yield from ((Span(f"  {text}"),) for text in found.started.environment)


def _files(found: Explanation) -> Iterator[Line]:
    if found.files is None:
        return
    yield ()
    yield _title("FILES", "as far as the process itself knew of them: the kernel's table is in no core")
    for stream in found.files.streams:
        waiting = f", {stream.unwritten} bytes of it not written yet" if stream.unwritten else ""
        yield (
            Span(f"  descriptor {stream.descriptor}"),
            Span(f"  a stream, to {stream.mode}{waiting}", "faint"),
        )
    yield from ((Span(f"  {path}"), Span("  mapped", "faint")) for path in found.files.mapped)
    yield from ((Span(f"  {path}"), Span("  a text in memory", "faint")) for path in found.files.paths)
