from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from memdump.errors import NotADump, NotPermitted
from memdump.machine import bpf, bpf_refusal, host, kernel_memory, lockdown
from memdump.machine.bpf import instruction
from memdump.machine.bpf_refusal import Process, reason
from memdump.machine.direct_map import Places
from memdump.machine.ebpf import EbpfSource
from memdump.machine.kernel_memory import KernelMemory
from memdump.machine.pieces import BLOCK, read_block
from memdump.machine.source import Range
from tests.machine.fake_bpf import MAP_CREATE, PROG_LOAD, PROG_TEST_RUN, RAW_TRACEPOINT, FakeKernel
from tests.machine.fake_kcore import DIRECT_MAP, IOMEM, PAGE, note

if TYPE_CHECKING:
    from pathlib import Path

BASE = DIRECT_MAP + (5 << 30)
TASK = BASE + 0x123440
BANNER = b"Linux version 6.1.0 (root@builder) (gcc 12) #1 SMP\n"

COPYING = """\
r3 = *(u64 *)(r1 + 0)
r2 = *(u64 *)(r1 + 8)
r4 = *(u64 *)(r1 + 16)
if r2 > 2097152 goto +6
if r4 > 2097152 goto +5
ld_pseudo r1, 2, 7
r1 += r4
call 113
exit
r0 = -22
exit
"""
ASKING = """\
call 35
ld_pseudo r1, 2, 7
*(u64 *)(r1 + 0) = r0
r0 = 0
exit
"""


@pytest.mark.parametrize(
    ("code", "text"), [(kernel_memory.copying(7, 4 << 20), COPYING), (kernel_memory.asking(7), ASKING)]
)
def test_the_programs_are_what_a_disassembler_reads_in_them(code: bytes, text: str) -> None:
    if not shutil.which("llvm-mc"):
        pytest.skip("llvm-mc is not installed (package llvm)")
    command = ["llvm-mc", "--disassemble", "--triple=bpf"]
    given = " ".join(f"{byte:#04x}" for byte in code)
    said = subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout
    assert [" ".join(line.split()) for line in said.splitlines()[1:]] == text.splitlines()


@pytest.mark.parametrize(
    ("encoded", "expected"),
    # From the examples of RFC 9669 and of the kernel's Documentation/bpf.
    [
        (instruction(0xB7, target=0, value=0), "b700000000000000"),
        (instruction(0x95), "9500000000000000"),
        (instruction(0xBF, target=6, source=1), "bf16000000000000"),
        (instruction(0x85, value=14), "850000000e000000"),
        (instruction(0x79, target=3, source=1, offset=112), "7913700000000000"),
        (instruction(0xB7, target=1, value=-1), "b7010000ffffffff"),
    ],
)
def test_instructions_are_encoded_as_documented(encoded: bytes, expected: str) -> None:
    assert encoded.hex() == expected


class Machine:
    """The machine of the fake iomem behind a fake kernel, which maps it at `BASE`."""

    def __init__(self, folder: Path, banner: bytes = BANNER) -> None:
        self.ram = {0x1000: bytearray(random.Random(1).randbytes(0x27000)), 0x100000: bytearray(0x300000)}
        self.ram[0x100000][:] = random.Random(2).randbytes(0x300000)
        self.put(0x20F123, banner + b"\0")
        self.broken: set[int] = set()
        self.base = BASE
        self.kernel = FakeKernel(self.memory, TASK)
        (folder / "iomem").write_text(IOMEM)
        (folder / "version").write_bytes(BANNER)
        self.places = Places(
            str(folder / "iomem"), str(folder / "kallsyms"), str(folder / "version"), str(folder / "pagemap")
        )

    def put(self, address: int, data: bytes) -> None:
        for start, memory in self.ram.items():
            if start <= address < start + len(memory):
                memory[address - start : address - start + len(data)] = data

    def memory(self, address: int, size: int) -> bytes | None:
        physical = address - self.base
        for start, memory in self.ram.items():
            inside = physical - start
            if inside >= 0 and inside + size <= len(memory):
                pages = range(physical // PAGE, (physical + size - 1) // PAGE + 1)
                return None if self.broken.intersection(pages) else bytes(memory[inside : inside + size])
        return None

    def open(self) -> EbpfSource:
        return EbpfSource(self.places, self.kernel)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    flagless(monkeypatch)
    return Machine(tmp_path)


def flagless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages of the machine that the tests run on are none of theirs."""

    def unknown(first: int, count: int) -> bytes:
        raise FileNotFoundError

    monkeypatch.setattr(host, "page_flags", unknown)


@pytest.mark.parametrize("types", [[31], [17], [31, 17]])
def test_every_range_reads_as_the_true_bytes(machine: Machine, types: list[int]) -> None:
    machine.kernel.types = types
    with contextlib.closing(machine.open()) as source:
        assert source.ranges() == [Range(0x1000, 0x27000), Range(0x100000, 0x300000)]
        for found in source.ranges():
            buffer = bytearray(found.size)
            source.read_into(found.start, memoryview(buffer))
            assert buffer == machine.ram[found.start]
        kind = "SYSCALL" if 31 in types else "RAW_TRACEPOINT"
        assert source.evidence == (
            f"BPF_PROG_TYPE_{kind}; direct map at {BASE:#x}: the address of the running task, proved by the"
            " kernel's banner at the addresses that iomem gives"
        )
    assert machine.kernel.loaded() == []


def test_lent_buffers_are_filled_without_a_detour_in_any_part(machine: Machine) -> None:
    with contextlib.closing(machine.open()) as source:
        lent = [source.buffer(BLOCK), source.buffer(BLOCK)]
        third = source.buffer(BLOCK)
        passing = source._memory._passing.value
        for buffer in lent:
            passing[:] = buffer[:] = bytes(BLOCK)
            source.read_into(0x100000, buffer)
            assert any(buffer)
            assert not any(passing)
        for buffer in [*lent, third]:
            assert len(buffer) == BLOCK
            for start, size in (
                (0, BLOCK),
                (0x1000, 0x5000),
                (BLOCK - 0x3000, 0x3000),
                (BLOCK // 2, BLOCK // 2),
            ):
                buffer[:] = bytes(BLOCK)
                source.read_into(0x100000 + start, buffer[start : start + size])
                assert buffer[start : start + size] == machine.ram[0x100000][start : start + size]
                assert not any(buffer[:start])
                assert not any(buffer[start + size :])
        lent[0][:] = bytes(BLOCK)
        source.read_into(0x100000, lent[1])
        source.read_into(0x180000, third)
        assert not any(lent[0])
        assert lent[1] == machine.ram[0x100000][:BLOCK]
    assert lent[1][:5] == machine.ram[0x100000][:5], "a buffer outlives its source"


def test_a_page_that_faults_is_found_and_the_rest_read(machine: Machine) -> None:
    with contextlib.closing(machine.open()) as source:
        machine.broken = {0x1F0, 0x200}
        buffer = source.buffer(BLOCK)
        with pytest.raises(OSError, match="Bad address") as caught:
            source.read_into(0x100000, buffer)
        assert caught.value.errno == errno.EFAULT
        assert read_block(source, 0x100000, buffer, PAGE) == [Range(0x1F0000, PAGE), Range(0x200000, PAGE)]
        expected = machine.ram[0x100000][:BLOCK]
        expected[0xF0000:0xF1000] = expected[0x100000:0x101000] = bytes(PAGE)
        assert buffer == expected


@pytest.mark.parametrize(
    ("address", "size"), [(0, PAGE), (0x27000, 0x2000), (0x28000, 1), (0x3FF000, 0x1001)]
)
def test_nothing_outside_system_ram_is_touched(machine: Machine, address: int, size: int) -> None:
    with contextlib.closing(machine.open()) as source:
        runs = machine.kernel.runs
        with pytest.raises(OSError, match="not system RAM"):
            source.read_into(address, memoryview(bytearray(size)))
        assert machine.kernel.runs == runs


def test_vmcoreinfo_is_read_where_the_kernel_says(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.put(0x123000, note(b"VMCOREINFO", 0, b"OSRELEASE=6.1.0\n").ljust(PAGE, b"\0"))
    (tmp_path / "vmcoreinfo").write_text("0x0000000000123000 1024\n")
    monkeypatch.setattr("memdump.machine.vmcoreinfo.PATH", str(tmp_path / "vmcoreinfo"))
    with contextlib.closing(machine.open()) as source:
        assert source.vmcoreinfo == "OSRELEASE=6.1.0\n"
    for nonsense in ("", "zero 1024", "0x99999999 1024", "0x123000", "0x130000 1024"):
        (tmp_path / "vmcoreinfo").write_text(nonsense)
        with contextlib.closing(machine.open()) as source:
            assert source.vmcoreinfo is None


def test_without_proof_of_the_direct_map_nothing_is_taken(machine: Machine) -> None:
    machine.put(0x20F123, b"another one")
    with pytest.raises(NotADump, match="no address can be trusted"):
        machine.open()
    assert machine.kernel.loaded() == []


@pytest.mark.parametrize("command", [MAP_CREATE, PROG_LOAD, PROG_TEST_RUN])
@pytest.mark.parametrize(
    ("number", "words"), [(errno.EPERM, "memdump-process"), (errno.ENOSYS, "CONFIG_BPF_SYSCALL")]
)
def test_a_refusal_is_one_line_and_leaves_nothing_open(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, command: int, number: int, words: str
) -> None:
    monkeypatch.setattr(bpf_refusal, "this_process", lambda: Process("6.1.0", False, 0, False))
    machine.kernel.refuses = {command: number}
    words = words.replace("memdump-process", "run as root .*CAP_BPF and CAP_PERFMON")
    with pytest.raises(NotPermitted, match=words) as caught:
        machine.open()
    assert "\n" not in str(caught.value)
    assert machine.kernel.loaded() == []


def test_what_the_verifier_says_is_shown_on_demand(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bpf_refusal, "this_process", lambda: Process("6.1.0", False, None, False))
    machine.kernel.types = []
    with pytest.raises(NotPermitted, match=r"Invalid argument \(unknown func bpf_probe_read_kernel#113\)"):
        machine.open()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("MEMDUMP_DEBUG", "1")
    with pytest.raises(NotPermitted):
        machine.open()
    assert "processed 7 insns" in capsys.readouterr().err


def test_a_helper_that_is_denied_only_when_it_runs_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.kernel.types = [RAW_TRACEPOINT]
    machine.kernel.denied = -errno.EPERM
    monkeypatch.setattr(lockdown, "level", lambda: "confidentiality")
    with pytest.raises(NotPermitted, match="locked down"):
        machine.open()
    assert machine.kernel.loaded() == []


ALL, NONE = (1 << 41) - 1, 0


@pytest.mark.parametrize(
    ("number", "process", "words"),
    [
        (errno.ENOSYS, Process("5.10.0", True, NONE, True), "built without bpf"),
        (errno.EINVAL, Process("6.1.0", True, ALL, False), "locked down"),
        (errno.EPERM, Process("6.1.0", False, NONE, False), "CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN"),
        (errno.EINVAL, Process("6.1.0", False, 1 << 39, False), "CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN"),
        (errno.EPERM, Process("6.1.0", False, 1 << 39 | 1 << 38, False), "container or a security module"),
        (errno.EPERM, Process("6.1.0", False, 1 << 21, False), "container or a security module"),
        (errno.EPERM, Process("5.10.0", False, ALL, True), "ulimit -l"),
        (errno.EPERM, Process("5.11.0", False, ALL, True), "container or a security module"),
        (errno.EINVAL, Process("5.4.0-150-generic", False, ALL, False), "Linux 5.10 or later .* 5.4.0-150"),
        (errno.EINVAL, Process("5.9", False, None, False), "Linux 5.10 or later"),
        (errno.ENOMEM, Process("5.10.0", False, ALL, False), "Cannot allocate memory"),
        (errno.ENOMEM, Process("fancy", False, ALL, False), "Linux 5.10"),
    ],
)
def test_the_reason_says_what_would_permit_it(number: int, process: Process, words: str) -> None:
    assert re.search(words, reason(OSError(number, os.strerror(number)), process))


def test_this_process_is_asked_for_its_capabilities(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t000000c000000000\nCapBnd:\t1\n")
    assert bpf_refusal.this_process(str(status)).capabilities == 1 << 38 | 1 << 39
    assert bpf_refusal.this_process(str(tmp_path / "none")).capabilities is None
    assert bpf_refusal.this_process().release == os.uname().release


def test_an_unknown_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "armv7l")
    with pytest.raises(NotPermitted, match="armv7l"):
        bpf.system_call()


def test_the_running_task_is_asked_for(machine: Machine) -> None:
    with contextlib.closing(KernelMemory(machine.kernel)) as memory:
        assert memory.task == TASK
        assert memory.read(BASE + 0x100010, 32) == bytes(machine.ram[0x100000][16:48])
        assert memory.read(BASE + 0x90000, 32) is None


def test_a_tag_in_the_address_of_a_task_is_no_part_of_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As kernels of arm64 put it there that check their accesses by tags."""
    machine.kernel.task = TASK & ~(0xFF << 56) | 0xF3 << 56
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with contextlib.closing(machine.open()) as source:
        assert f"direct map at {BASE:#x}" in (source.evidence or "")


def test_numbers_beyond_what_the_program_allows_are_refused_by_itself(machine: Machine) -> None:
    code = kernel_memory.copying(0, 2 * BLOCK)
    for context in ((BASE + 0x100000, BLOCK + 1, 0), (BASE + 0x100000, 8, BLOCK + 1), (0, (1 << 64) - 1, 0)):
        assert machine.kernel._interpret(code, struct.pack("=QQQ", *context)) == -errno.EINVAL
