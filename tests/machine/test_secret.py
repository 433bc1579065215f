"""What the kernel says of a process that protects its memory."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BLOCK = 32 << 20
PR_CAPBSET_DROP, CAP_IPC_LOCK = 24, 14


def run(script: str, before: Callable[[], None] | None = None, *words: str) -> Any:
    """What a Python of its own prints as JSON, with `status(name)` for a line of /proc/self/status in KiB."""
    text = """
        import json, mmap, os, pathlib, resource, sys
        from memdump.machine import secret

        # Many machines have no swap, and then nothing needs to be locked.
        secret.SWAPS = pathlib.Path(f"/proc/{os.getpid()}/maps")

        def status(name):
            with open("/proc/self/status") as file:
                return next(int(line.split()[1]) for line in file if line.startswith(name + ":"))
    """
    command = [sys.executable, "-c", textwrap.dedent(text) + textwrap.dedent(script), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=before)
    return json.loads(done.stdout)


def without_right_to_lock(limit: int) -> Callable[[], None]:
    """Makes a child that is not root's equal: it can lock no more than the limit."""

    def apply() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
        if os.geteuid() == 0:
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0)

    return apply


def test_no_core_is_dumped() -> None:
    found = run("""
        import ctypes
        secret.protect_process()
        print(json.dumps([resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3)]))
    """)
    assert found == [[0, resource.getrlimit(resource.RLIMIT_CORE)[1]], 0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may lock memory")
def test_root_locks_what_it_allocates_later() -> None:
    before, after, missing = run(f"""
        missing = secret.protect_process()
        before = status("VmLck")
        block = bytearray(b"x" * {BLOCK})
        print(json.dumps([before, status("VmLck"), missing]))
    """)
    assert missing == []
    assert before > 0
    assert (after - before) * 1024 >= BLOCK


def test_nothing_is_locked_where_nothing_can_be_swapped(tmp_path: Path) -> None:
    swaps = tmp_path / "swaps"
    swaps.write_text("Filename\tType\tSize\tUsed\tPriority\n")
    found = run(
        """
        secret.SWAPS = pathlib.Path(sys.argv[1])
        missing = secret.protect_process()
        print(json.dumps([status("VmLck"), missing]))
        """,
        None,
        str(swaps),
    )
    assert found == [0, []]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may lock memory")
@pytest.mark.parametrize("first", ["map", "protect"])
def test_a_mapped_image_is_not_locked(tmp_path: Path, first: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(4096))
    os.truncate(path, 4 * BLOCK)
    steps = {
        "map": "mapping = map(); secret.protect_process()",
        "protect": "secret.protect_process(); mapping = map(); secret.let_go_of_files()",
    }
    found = run(
        f"""
        def map():
            with open(sys.argv[1], "rb") as file:
                return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        {steps[first]}
        print(json.dumps([status("VmLck"), len(mapping[:])]))
        """,
        None,
        str(path),
    )
    assert found[0] * 1024 < 2 * BLOCK
    assert found[1] == 4 * BLOCK


@pytest.mark.parametrize("limit", [0, 8 << 20])
def test_with_a_limit_nothing_is_locked_and_memory_can_be_had(limit: int) -> None:
    found = run(
        f"""
        import threading
        missing = secret.protect_process()
        block = bytearray(b"x" * {4 * BLOCK})
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        print(json.dumps([status("VmLck"), missing]))
        """,
        without_right_to_lock(limit),
    )
    assert found[0] == 0
    assert "may be swapped" in found[1][0]


def test_with_a_limit_that_is_not_reached_yet_nothing_is_locked_either() -> None:
    """Later allocations would reach it.  No test can raise its limit, so the kernel is a stand-in."""
    called = run(
        """
        called = []
        class Kernel:
            def __getattr__(self, name):
                return lambda *words: called.append(name) or 0
        secret._libc = Kernel
        secret.protect_process()
        print(json.dumps(called))
        """,
        without_right_to_lock(8 << 20),
    )
    assert called == ["prctl"]
