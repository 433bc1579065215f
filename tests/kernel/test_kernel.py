"""What is had of a kernel when a piece of it is missing, and what drgn's own helpers make of a whole one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from drgn.helpers.linux.fs import d_path, for_each_file, for_each_mount, mount_dst
from drgn.helpers.linux.mm import cmdline, for_each_vma
from drgn.helpers.linux.net import for_each_net
from drgn.helpers.linux.pid import find_task, for_each_task
from drgn.helpers.linux.printk import get_dmesg
from drgn.helpers.linux.slab import for_each_slab_cache

from memdump.kernel import kallsyms, open_kernel
from memdump.kernel.problems import NoKernel
from tests.kernel.images import Altered, BytesImage

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.dump import Dump
    from memdump.kernel.kernel import Kernel
    from tests.lab.guests import Made

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kernel is worked out anew: nothing can be remembered there."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")


def pids(kernel: Kernel) -> set[int]:
    return {task.pid.value_() for task in for_each_task(kernel.program)}


def reasons(kernel: Kernel) -> dict[str, str]:
    return {problem.place: problem.reason for problem in kernel.problems}


def physical(dump: Dump, name: str) -> int:
    address = dump.kernel.symbols.address_of(name)
    assert address is not None
    return dump.kernel.location.translate(address)


def without_kallsyms(dump: Dump) -> dict[int, bytes]:
    location = dump.kernel.location
    data = dump.image.read(location.physical, location.size)
    start, _, _ = next(kallsyms._token_tables(data, location.text_size))
    return {location.physical + start: bytes(1024)}


def test_without_kallsyms_the_tasks_and_the_log_are_still_had(dump: Dump) -> None:
    kernel = open_kernel(Altered(dump.image, without_kallsyms(dump)))
    assert "kallsyms" in reasons(kernel)
    assert pids(kernel) == pids(dump.kernel)
    assert get_dmesg(kernel.program) == get_dmesg(dump.kernel.program)


def test_without_vmcoreinfo_one_is_made_up(dump: Dump) -> None:
    text = dump.kernel.vmcoreinfo
    copies = {
        address + at: b"X" for address, chunk in dump.image.chunks() for at in places(bytes(chunk), text[:40])
    }
    kernel = open_kernel(Altered(dump.image, copies))
    assert "VMCOREINFO" in reasons(kernel)
    assert kernel.release == dump.kernel.release
    assert pids(kernel) == pids(dump.kernel)


def places(data: bytes, what: bytes) -> list[int]:
    found, at = [], data.find(what)
    while at >= 0:
        found.append(at)
        at = data.find(what, at + 1)
    return found


def test_a_btf_torn_in_the_middle_is_not_used(dump: Dump) -> None:
    torn = {physical(dump, "__start_BTF") + (1 << 20): bytes(1 << 16)}
    kernel = open_kernel(Altered(dump.image, torn))
    assert kernel.btf is None
    assert "BTF" in reasons(kernel)
    assert kernel.release == dump.kernel.release
    assert kernel.symbols.address_of("init_task") == dump.kernel.symbols.address_of("init_task")


def test_a_btf_torn_in_the_middle_is_noticed_where_its_index_is_remembered(
    dump: Dump, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_kernel(Altered(dump.image, {})).btf is not None
    torn = {physical(dump, "__start_BTF") + (1 << 20): bytes(1 << 16)}
    assert open_kernel(Altered(dump.image, torn)).btf is None


def test_a_hole_in_the_kernel_is_a_problem_and_no_more(guest: Made, dump: Dump) -> None:
    start = physical(dump, "_text") + 0x3000
    kernel = open_kernel(Altered(dump.image, {}, missing=range(start, start + 0x1000)))
    assert reasons(kernel)["kernel image"] == f"no memory at physical address {start:#x} (4096 bytes)"
    assert pids(kernel) == pids(dump.kernel)


def test_no_kernel_is_said_in_one_line() -> None:
    with pytest.raises(NoKernel, match="no Linux kernel for x86-64 found in this bytes image"):
        open_kernel(BytesImage({0: bytes(1 << 21)}))


def test_drgns_own_helpers_accept_the_program(guest: Made, dump: Dump) -> None:
    program = dump.kernel.program
    processes = {process["pid"]: process for process in guest.truth["processes"]}
    task = find_task(program, 1)
    assert [word.decode() for word in cmdline(task) or []] == processes[1]["cmdline"].split("\0")[:-1]
    assert len(list(for_each_file(task))) == len(processes[1]["fds"])
    assert {vma.vm_start.value_() for vma in for_each_vma(task.mm)} >= {
        int(line.split("-")[0], 16) for line in processes[1]["maps"].splitlines() if "vsyscall" not in line
    }
    assert {mount_dst(mount) for mount in for_each_mount(program)} >= {b"/proc", b"/sys"}
    nets = {process["namespaces"].get("net") for process in processes.values()} - {None}  # a zombie has none
    assert len(list(for_each_net(program))) == len(nets)
    assert b"task_struct" in {cache.name.string_() for cache in for_each_slab_cache(program)}
    assert b"Linux version " + guest.truth["machine"]["uname"][2].encode() in get_dmesg(program)
    assert d_path(task.fs.root) == b"/"


def test_stacks_are_unwound_to_where_the_task_entered_the_kernel(dump: Dump) -> None:
    """No DWARF is read: the ORC tables in the image tell where each frame ends."""
    frames = [frame.name for frame in dump.kernel.program.stack_trace(find_task(dump.kernel.program, 2))]
    assert frames[:3] == ["__schedule", "schedule", "kthreadd"]
    assert frames[-1] in ("ret_from_fork", "ret_from_fork_asm")
