"""What is said of a kernel that crashed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import memdump
from memdump.crash import kernel_stack
from memdump.crash.kernel import KernelCrash, _involved, _report, explain_kernel
from tests.crash import panicked
from tests.lab import cache, guests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memdump.dump import Dump
    from memdump.kernel.kernel import Kernel

OOPS = """\
BUG: kernel NULL pointer dereference, address: 0000000000000010
#PF: supervisor read access in kernel mode
Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI
CPU: 1 UID: 0 PID: 77 Comm: cat Tainted: G           OE
RIP: 0010:shop_read+0x1c/0x40 [shop]
Call Trace:
 <TASK>
 vfs_read+0x9c/0x2e0
 ext4_file_read_iter+0x10/0x20 [ext4]
 </TASK>
---[ end trace 0000000000000000 ]---"""


@pytest.fixture(scope="module")
def machine() -> panicked.Panicked:
    return had("panicked")


def had(way: str) -> panicked.Panicked:
    try:
        return panicked.get(way)
    except (cache.NoLab, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        if guests_required():
            raise
        pytest.skip(f"no guest: {error}")


def guests_required() -> bool:
    from tests.conftest import LAB_REQUIRED

    return LAB_REQUIRED


@pytest.fixture(scope="module")
def crash(machine: panicked.Panicked) -> KernelCrash:
    with memdump.open(machine.image) as dump:
        return explain_kernel(dump)


@pytest.mark.lab
@pytest.mark.xdist_group("live")
class TestAPanickedGuest:
    def test_the_message_and_what_it_means(self, crash: KernelCrash) -> None:
        assert crash.kind == "panic"
        assert crash.message == "Kernel panic - not syncing: sysrq triggered crash"
        assert "SysRq-c" in crash.meaning
        assert crash.defects == []

    def test_the_task_and_the_processor(self, crash: KernelCrash, machine: panicked.Panicked) -> None:
        said = re.search(r"CPU: (\d+) .*PID: (\d+) Comm: (\S+)", machine.console)
        assert said
        assert crash.task is not None
        assert (crash.cpu, crash.task.pid, crash.task.name) == (int(said[1]), int(said[2]), said[3])
        assert crash.task.pid == int(machine.told[0])

    def test_the_stack_is_the_call_trace_of_the_kernel(
        self, crash: KernelCrash, machine: panicked.Panicked
    ) -> None:
        trace = machine.console.rpartition("Call Trace:")[2].partition("</TASK>")[0]
        said = re.findall(r" (?<!\? )(\w[\w.]*)\+0x([0-9a-f]+)/0x[0-9a-f]+$", trace, re.MULTILINE)
        theirs = [(name, int(offset, 16)) for name, offset in said if name not in ("panic", "vpanic")]
        ours = [(frame.function, frame.offset) for frame in crash.stack]
        assert ours[0][0] in ("panic", "vpanic")
        assert [frame for frame in ours if frame[0] not in ("panic", "vpanic")] == theirs[1:]
        assert theirs[0][0] == "dump_stack_lvl"  # it has returned since

    def test_taint(self, crash: KernelCrash, machine: panicked.Panicked) -> None:
        letters = "PFSRMBUDAWCIOELKXTNJ"
        mask = int(machine.told[1])
        assert crash.taint == "".join(letters[bit] for bit in range(20) if mask >> bit & 1)
        assert "a warning had been given before" in crash.taints

    def test_the_log(self, crash: KernelCrash) -> None:
        assert any("sysrq: Trigger a crash" in line for line in crash.log)
        assert any("Call Trace" in line for line in crash.log)
        assert crash.log[-1].startswith("---[ end Kernel panic")

    def test_the_command(self, machine: panicked.Panicked) -> None:
        command = [sys.executable, "-m", "memdump", "explain", str(machine.image)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "  message   Kernel panic - not syncing: sysrq triggered crash\n" in done.stdout
        assert "\nSTACK " in done.stdout


@pytest.mark.lab
@pytest.mark.xdist_group("live")
@pytest.mark.parametrize("options", ["-c -d 31", "-l -d 31", "-E -d 31"])
def test_a_vmcore_of_makedumpfile_says_the_same(options: str, crash: KernelCrash, tmp_path: Path) -> None:
    """What kdump keeps, compressed by page or as a core: neither free memory, nor user space, nor zeros."""
    program = shutil.which("makedumpfile", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        pytest.skip("makedumpfile is not installed: apt install makedumpfile")
    # It refuses the core as QEMU wrote it: "Can't get the number of PT_LOAD".
    core, vmcore = tmp_path / "core", tmp_path / "vmcore"
    convert = [sys.executable, "-m", "memdump", "convert", crash.path, str(core), "--to", "elf"]
    subprocess.run(convert, check=True, capture_output=True)
    subprocess.run([program, *options.split(), core, vmcore], check=True, capture_output=True)
    core.unlink()
    with memdump.open(vmcore) as dump:
        assert dump.image.format == ("elf" if "-E" in options else "kdump")
        found = explain_kernel(dump)
    assert replace(found, path=crash.path) == crash


@pytest.fixture(scope="module")
def guest_of_module() -> panicked.Panicked:
    return had("panicked-module")


@pytest.fixture(scope="module")
def crash_in_module(guest_of_module: panicked.Panicked) -> KernelCrash:
    with memdump.open(guest_of_module.image) as dump:
        return explain_kernel(dump)


@pytest.mark.lab
@pytest.mark.xdist_group("live")
class TestAPanicInAModuleInAnInterrupt:
    def test_what_the_console_said(
        self, crash_in_module: KernelCrash, guest_of_module: panicked.Panicked
    ) -> None:
        found = crash_in_module
        said = re.search(r"CPU: (\d+) .*PID: (\d+) Comm: (\S+)", guest_of_module.console)
        assert said
        assert found.task is not None
        assert found.message == "Kernel panic - not syncing: Software Watchdog Timer expired"
        assert (found.cpu, found.task.pid, found.task.name) == (int(said[1]), int(said[2]), said[3])
        assert (found.taint, found.modules, found.defects) == ("", ("softdog",), [])
        assert guest_of_module.told[1] == "0"
        assert any(line.startswith("softdog ") for line in guest_of_module.told)

    def test_the_stack_leads_through_the_module_to_the_task(
        self, crash_in_module: KernelCrash, guest_of_module: panicked.Panicked
    ) -> None:
        trace = guest_of_module.console.rpartition("Call Trace:")[2].partition("</TASK>")[0]
        line = r"(?:\] {2}|RIP: 0010:)(\w[\w.]*)\+0x([0-9a-f]+)/0x[0-9a-f]+(?: \[(\w+)\])?\r?$"
        theirs = [
            (name, int(offset, 16), module) for name, offset, module in re.findall(line, trace, re.MULTILINE)
        ]
        ours = [(frame.function, frame.offset, frame.module) for frame in crash_in_module.stack]
        assert [frame[0] for frame in theirs[:3]] == ["dump_stack_lvl", "panic", "softdog_fire.cold"]
        assert ours[0][0] == "panic"  # it has gone on since it printed its stack
        assert ours[1:] == theirs[2:]
        assert ours[1][2] == "softdog"


def test_an_oops_and_the_modules_in_it() -> None:
    report, message = _report(["before", *OOPS.splitlines(), "after"])
    assert message.startswith("BUG: kernel NULL pointer")
    assert report == OOPS.splitlines()
    assert _involved((), report) == ("shop", "ext4")


def test_the_fault_that_led_to_a_panic_is_reported_with_it() -> None:
    end = "---[ end Kernel panic - not syncing: Fatal exception ]---"
    lines = ["before", *OOPS.splitlines(), "Kernel panic - not syncing: Fatal exception", "Offset: 0x1", end]
    report, message = _report([*lines, "after"])
    assert message == "Kernel panic - not syncing: Fatal exception"
    assert report == lines[1:]


def test_a_log_without_a_fault() -> None:
    assert _report(["Linux version 6.12", "all is well"]) == ([], "")


@pytest.fixture(scope="module")
def sound() -> Iterator[Dump]:
    try:
        made = guests.get(guests.GUESTS["6.12"])
    except (cache.NoLab, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no guest: {error}")
    with memdump.open(made.qmp_image) as dump:
        yield dump


@pytest.mark.lab
def test_a_kernel_that_did_not_crash(sound: Dump) -> None:
    found = explain_kernel(sound)
    assert (found.kind, found.message, found.task, found.stack) == ("none", "", None, ())


@pytest.mark.lab
def test_a_stack_from_a_return_address_on_is_drgns(sound: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that sleeps is in ``schedule`` as one that panicked is in ``panic``, and drgn can unwind it."""
    program = sound.kernel.program
    monkeypatch.setattr(kernel_stack, "INSIDE", ("schedule",))
    compared = 0
    for row in sound.table("processes"):
        if row.state != "S" or row.kernel_thread:
            continue
        trace = program.stack_trace(row.pid)
        theirs = [(int(frame.pc), frame.name) for frame in trace if frame.pc >> 63]
        at = next((number for number, frame in enumerate(theirs) if frame[1] == "schedule"), None)
        if at is None:
            continue
        found = kernel_stack.of_panic(sound.kernel, row.address)
        assert [(frame.pc, frame.function) for frame in found] == theirs[at:]
        assert found[-1].function.startswith("entry_")
        compared += 1
    assert compared > 3


def test_what_an_earlier_call_left_on_the_stack_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unwound from there, the stack is no code at one place, however well it ends."""
    top = 0xFFFFFFFF81000000
    names = ("panic", "sysrq_handle_crash", "entry_SYSCALL_64")
    real = tuple(kernel_stack.KernelFrame(top + at, name, 16, "") for at, name in enumerate(names))
    stale = (real[0], kernel_stack.KernelFrame(top - 1, "", None, ""), *real)
    monkeypatch.setattr(kernel_stack, "_know_unwinding", lambda _: None)
    monkeypatch.setattr(kernel_stack, "_read", lambda *_: kernel_stack.Stack(top, ()))
    monkeypatch.setattr(kernel_stack, "_modules", lambda _: [])
    monkeypatch.setattr(kernel_stack, "_returns", lambda *_: [(top, top), (top + 8, top)])
    monkeypatch.setattr(kernel_stack, "_unwind", lambda _, address, *__: {top: stale, top + 8: real}[address])
    kernel: Kernel = None  # type: ignore[assignment]  # nothing of it is read
    assert kernel_stack.of_panic(kernel, 0) == real
