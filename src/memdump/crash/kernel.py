"""Why a kernel crashed: what it said, who was running, on which processor, and how it came there.

It works on any image of the machine's memory, of the moment after the panic or of any time after an oops.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memdump.crash import kernel_stack
from memdump.kernel.problems import SMEAR
from memdump.kernel.taint import letters
from memdump.kernel.text import decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdump.crash.kernel_stack import KernelFrame
    from memdump.dump import Dump
    from memdump.kernel.kernel import Kernel

PANIC = "Kernel panic - not syncing"
"""``vpanic`` of ``kernel/panic.c``."""
OOPS = re.compile(
    r"BUG: |kernel BUG at |Oops: |general protection fault|Unable to handle kernel|Internal error: "
    r"|double fault|stack guard page|divide error: |invalid opcode: |watchdog: BUG: |rcu: .*detected stall"
)
"""What the reports of faults begin with (``arch/*/mm/fault.c``, ``arch/*/kernel/traps.c``, ``lib/bug.c``)."""
END = re.compile(r"---\[ end (trace|Kernel panic)")
MOST_LINES = 120
LINES_BEFORE_PANIC = 4
MODULE = re.compile(r"\+0x[0-9a-f]+/0x[0-9a-f]+ \[(\w+)")
"""A line of a call trace that names a module: ``name+0x10/0x40 [ext4]``."""
NO_CPU = 0xFFFFFFFF

MEANINGS = {
    "sysrq triggered crash": "somebody asked for it, by SysRq-c or /proc/sysrq-trigger",
    "Attempted to kill init!": "the first process of the system ended, which it must not",
    "Fatal exception in interrupt": "a fault of the kernel inside an interrupt: the report before says where",
    "Fatal exception": "a fault of the kernel, which is set to panic then: the report before it says where",
    "Out of memory": "no memory was left, and the kernel is set to panic then",
    "hung_task": "a task did not go on for too long, and the kernel is set to panic then",
    "softlockup": "a processor did not come out of the kernel for too long",
    "Hard LOCKUP": "a processor did not take interrupts for too long",
    "VFS: Unable to mount root": "the root file system could not be mounted",
    "No working init found": "no program could be started as the first process",
    "stack-protector": "a function of the kernel wrote beyond a local variable on its stack",
    "panic_on_warn set": "a warning was given, and the kernel is set to panic then",
    "Machine check": "the hardware reported an error that cannot be corrected",
    "NMI": "the hardware or a hypervisor raised a non-maskable interrupt",
}
"""Pieces of the kernel's messages, and what they come from."""

TAINTS = {
    "P": "a proprietary module",
    "F": "a module was loaded by force",
    "S": "a processor outside of its specification",
    "R": "a module was unloaded by force",
    "M": "the hardware reported an error (machine check)",
    "B": "a bad page was found",
    "U": "user space asked for it",
    "D": "the kernel had died before (oops or BUG)",
    "A": "an ACPI table was replaced",
    "W": "a warning had been given before",
    "C": "a staging driver",
    "I": "a workaround for a bug in the firmware",
    "O": "a module from outside of the kernel's tree",
    "E": "an unsigned module",
    "L": "a soft lockup had happened before",
    "K": "live patched",
    "X": "set by the distribution",
    "T": "structures laid out at random",
    "N": "an in-kernel test was run",
    "J": "a fwctl driver changed something",
}
"""``Documentation/admin-guide/tainted-kernels.rst``."""


@dataclass(frozen=True, slots=True)
class Task:
    """The task that was running."""

    pid: int
    name: str
    address: int


@dataclass(frozen=True, slots=True)
class KernelCrash:
    """What is known of the crash of a kernel."""

    path: str
    release: str
    hostname: str | None
    kind: str
    """``panic``, ``oops`` (a fault that the kernel survived), or ``none``."""
    message: str
    """The kernel's own words."""
    meaning: str
    """The same in words for everyone; empty where there are none."""
    cpu: int | None
    task: Task | None
    taint: str
    """Letters; `taints` has the words."""
    taints: tuple[str, ...]
    stack: tuple[KernelFrame, ...]
    modules: tuple[str, ...]
    """Modules whose code was on the stack or in the kernel's own report."""
    log: tuple[str, ...]
    """What the kernel reported."""
    defects: list[str]


def explain_kernel(dump: Dump) -> KernelCrash:
    """Explain the crash in an image; raises `memdump.kernel.problems.NoKernel` where no kernel is in it."""
    kernel = dump.kernel
    system = next(dump.table("system"), None)
    records = [record.text for record in dump.table("kernel_log")]
    report, message = _report(records)
    defects: list[str] = []
    cpu = _panic_cpu(kernel)
    panicked = cpu is not None or message.startswith(PANIC)
    task = _running(kernel, cpu, defects) if cpu is not None else None
    stack = _stack(kernel, task, cpu, defects) if task else ()
    taint = _taint(kernel)
    if not records:
        defects.append("the kernel's log cannot be read: its words are missing")
    return KernelCrash(
        path=str(dump.image.path),
        release=kernel.release,
        hostname=system.hostname if system else None,
        kind="panic" if panicked else "oops" if message else "none",
        message=message,
        meaning=next((words for piece, words in MEANINGS.items() if piece in message), ""),
        cpu=cpu,
        task=task,
        taint=taint,
        taints=tuple(TAINTS.get(letter, f"taint {letter}") for letter in taint),
        stack=stack,
        modules=_involved(stack, report),
        log=tuple(report),
        defects=defects,
    )


def _report(records: Sequence[str]) -> tuple[list[str], str]:
    """The lines with which the kernel reported its last fault, and the one that says what it was."""
    lines = [line for record in records for line in record.splitlines()]
    panics = [number for number, line in enumerate(lines) if line.startswith(PANIC)]
    faults = [number for number, line in enumerate(lines) if OOPS.search(line)]
    if panics:
        # The report of the fault that led to the panic is right before it.
        first = next((at for at in faults if panics[-1] - MOST_LINES < at < panics[-1]), panics[-1])
        start, message = max(0, first - LINES_BEFORE_PANIC * (first == panics[-1])), lines[panics[-1]]
    elif faults:
        start = next(at for at in faults if faults[-1] - at < MOST_LINES)
        message = lines[start]
    else:
        return [], ""
    report: list[str] = []
    for line in lines[start : start + MOST_LINES]:
        report.append(line)
        if END.search(line) and (not panics or "Kernel panic" in line):
            break
    return report, message


def _panic_cpu(kernel: Kernel) -> int | None:
    """The processor that panicked: ``panic_cpu`` of ``kernel/panic.c``."""
    address = kernel.symbols.address_of("panic_cpu")
    if address is None:
        return None
    try:
        cpu = int(kernel.program.read_u32(address))
    except SMEAR:
        return None
    return None if cpu == NO_CPU else cpu


def _running(kernel: Kernel, cpu: int, defects: list[str]) -> Task | None:
    from drgn.helpers.linux.sched import cpu_curr

    try:
        task = cpu_curr(kernel.program, cpu).read_()
        return Task(int(task.pid), decode(task.comm.string_()), int(task.value_()))
    except SMEAR as error:
        defects.append(f"the task that ran on processor {cpu} cannot be read: {error}")
        return None


def _stack(kernel: Kernel, task: Task, cpu: int | None, defects: list[str]) -> tuple[KernelFrame, ...]:
    try:
        found = kernel_stack.of_panic(kernel, task.address, cpu)
    except SMEAR as error:
        defects.append(f"the stack of task {task.pid} cannot be read: {error}")
        return ()
    if not found:
        defects.append(
            f"the stack of task {task.pid} cannot be unwound; the kernel's own report may have a call trace"
        )
    return found


def _taint(kernel: Kernel) -> str:
    address = kernel.symbols.address_of("tainted_mask")
    try:
        return letters(kernel.program.read_u64(address)) if address is not None else ""
    except SMEAR:
        return ""


def _involved(stack: Sequence[Any], report: Sequence[str]) -> tuple[str, ...]:
    named = [frame.module for frame in stack if frame.module]
    named += [found[1] for line in report for found in MODULE.finditer(line)]
    return tuple(dict.fromkeys(named))
