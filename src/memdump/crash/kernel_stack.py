"""The kernel stack of the task that panicked.

The registers of a running task are in no image but those that QEMU or kdump write.  They are not needed: the
task is still inside of ``panic``, so on its stack stands an address in ``panic`` to which a function returns
that ``panic`` has called, and from there on the stack can be unwound by the kernel's ORC tables.  A panic in
an interrupt is on the processor's stack for interrupts, which leads back to that of the task.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import drgn

from memdump.kernel.modules import for_each_module
from memdump.kernel.problems import SMEAR
from memdump.kernel.text import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel

INSIDE = ("vpanic", "panic")
"""``panic`` is a wrapper of ``vpanic`` since Linux 6.16."""
KERNEL_HALF = 1 << 63
"""Addresses of the kernel are not below."""
LARGEST_FUNCTION = 1 << 14
MOST_ATTEMPTS = 64
LARGEST_STACK = 1 << 17
ENTRIES = ("entry_", "ret_from_fork", "asm_", "secondary_startup", "x86_64_start", "start_secondary", "el0")
"""How the outermost function of a stack that was unwound to its end begins."""


@dataclass(frozen=True, slots=True)
class KernelFrame:
    """A function of the kernel that was called and has not returned."""

    pc: int
    function: str
    """Empty where it is not known."""
    offset: int | None
    module: str
    """The module that it is in; empty for the kernel itself."""

    @property
    def known(self) -> bool:
        """Whether it is code at all; what an earlier call left on the stack leads to what is none."""
        return bool(self.function or self.module)


class Stack(NamedTuple):
    """The kernel stack of a task."""

    base: int
    words: tuple[int, ...]

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.base + len(self.words) * 8

    def frame_pointers(self, address: int) -> list[int]:
        """What register rbp may have been in a function whose frame begins at ``address``; the nearest first.

        Functions keep their caller's rbp on the stack; it is needed where a function finds its frame by it.
        """
        return sorted({word for word in self.words if address < word < self.end and word % 8 == 0})


def of_panic(kernel: Kernel, task: int, cpu: int | None = None) -> tuple[KernelFrame, ...]:
    """The stack of a task that is in ``panic``, innermost first; empty where it cannot be unwound.

    With ``cpu`` it may also have been interrupted there, by what panicked.  Raises what reading a torn
    structure raises.
    """
    _know_unwinding(kernel)
    modules = list(_modules(kernel))
    found = _of_stack(kernel, _read(kernel, task), modules)
    if not found and cpu is not None:
        interrupted = _read_for_interrupts(kernel, cpu)
        found = _of_stack(kernel, interrupted, modules) if interrupted else ()
    return found


def _of_stack(kernel: Kernel, stack: Stack, modules: list[tuple[str, int, int]]) -> tuple[KernelFrame, ...]:
    best: list[KernelFrame] = []
    for _, (address, value) in zip(range(MOST_ATTEMPTS), _returns(kernel, stack), strict=False):
        for pointer in [0, *stack.frame_pointers(address)[:MOST_ATTEMPTS]]:
            frames = list(_unwind(kernel, address, value, pointer, modules))
            code = list(itertools.takewhile(lambda frame: frame.known, frames))
            if code and code == frames and code[-1].function.startswith(ENTRIES):
                return tuple(code)
            best = max(best, code, key=len)
    return tuple(best) if len(best) > 1 else ()


def _read(kernel: Kernel, task: int) -> Stack:
    base = int(drgn.Object(kernel.program, "struct task_struct", address=task).stack)
    data = kernel.program.read(base, _stack_size(kernel))
    return Stack(base, struct.unpack(f"<{len(data) // 8}Q", data))


def _know_unwinding(kernel: Kernel) -> None:
    """Have drgn find the ORC tables of modules, too: without them a stack ends there, or skips the frame."""
    for module in for_each_module(kernel, ""):
        with kernel.problems.skipping("", "unwinding tables of modules"):
            kernel.program.linux_kernel_loadable_module(module, create=True)


def _read_for_interrupts(kernel: Kernel, cpu: int) -> Stack | None:
    """The stack for interrupts of a processor of x86-64; None where it is not known.

    ``hardirq_stack_ptr`` leads to its last word (``arch/x86/kernel/irq_64.c``); it is a member of
    ``pcpu_hot`` from Linux 6.2 to 6.14.
    """
    from drgn.helpers.linux.percpu import per_cpu

    for name in ("pcpu_hot", "hardirq_stack_ptr"):
        try:
            found = per_cpu(kernel.program[name], cpu)
            last = int(found.hardirq_stack_ptr if name == "pcpu_hot" else found)
            size = _stack_size(kernel)
            base = last + 8 - size
            data = kernel.program.read(base, size)
        except SMEAR:
            continue
        return Stack(base, struct.unpack(f"<{size // 8}Q", data))
    return None


def _returns(kernel: Kernel, stack: Stack) -> Iterator[tuple[int, int]]:
    """Where on the stack an address inside of ``panic`` stands, and that address; the lowest first."""
    ranges = [
        (start, start + LARGEST_FUNCTION)
        for name in INSIDE
        if (start := kernel.symbols.address_of(name)) is not None
    ]
    for number, value in enumerate(stack.words):
        if any(start < value < end for start, end in ranges) and _name(kernel, value - 1) in INSIDE:
            yield stack.base + number * 8, value


def _stack_size(kernel: Kernel) -> int:
    """``THREAD_SIZE``, as ``union thread_union`` of ``include/linux/sched.h`` has it."""
    try:
        size = int(drgn.sizeof(kernel.program.type("union thread_union")))
    except SMEAR:
        size = 1 << 14
    return min(size, LARGEST_STACK)


def _unwind(
    kernel: Kernel, address: int, value: int, frame_pointer: int, modules: list[tuple[str, int, int]]
) -> Iterator[KernelFrame]:
    """The frames from a return address on, which stands at ``address``."""
    program = kernel.program
    kind = program.type("struct pt_regs")
    registers = bytearray(drgn.sizeof(kind))
    for name, content in (("ip", value - 1), ("sp", address + 8), ("bp", frame_pointer)):
        struct.pack_into("<Q", registers, drgn.offsetof(kind, name), content)
    try:
        trace = program.stack_trace(drgn.Object.from_bytes_(program, kind, bytes(registers)))
    except SMEAR:
        return
    for number, frame in enumerate(trace):
        try:
            pc = int(frame.pc) + (number == 0)
        except SMEAR:
            return
        if pc < KERNEL_HALF:  # the process that called the kernel
            return
        yield _frame(kernel, pc, modules)


def _frame(kernel: Kernel, pc: int, modules: list[tuple[str, int, int]]) -> KernelFrame:
    symbol = _symbol(kernel, pc - 1)
    module = next((name for name, start, end in modules if start <= pc < end), "")
    if symbol is None:
        return KernelFrame(pc, "", None, module)
    return KernelFrame(pc, symbol.name, pc - symbol.address, module)


def _name(kernel: Kernel, address: int) -> str:
    symbol = _symbol(kernel, address)
    return symbol.name if symbol else ""


def _symbol(kernel: Kernel, address: int) -> Any:
    try:
        return kernel.program.symbol(address)
    except SMEAR:
        return None


def _modules(kernel: Kernel) -> Iterator[tuple[str, int, int]]:
    """Name, beginning and end of the code of each module."""
    for module in for_each_module(kernel, ""):
        with kernel.problems.skipping("", "code of modules"):
            # From 6.4 on there is a piece of memory per kind, of which the first is the code.
            text = module.mem[0] if hasattr(module, "mem") else module.core_layout
            start = int(text.base)
            yield decode(module.name.string_()), start, start + int(text.size)
