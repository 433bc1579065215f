"""Cores that ``memdump process`` takes of processes that run on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from memdump.crash.explanation import explain

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import sys, threading, time
def waiting():
    time.sleep(1000)
for _ in range(2):
    threading.Thread(target=waiting, daemon=True).start()
print("ready", flush=True)
waiting()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may take the memory of any process here")
def test_a_process_that_runs_on(tmp_path: Path) -> None:
    core = tmp_path / "core"
    target = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE)
    try:
        assert target.stdout
        target.stdout.readline()
        time.sleep(0.3)
        command = [sys.executable, "-m", "memdump", "process", str(target.pid), str(core)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    finally:
        target.kill()
        target.wait()
    found = explain(core)
    assert found.verdict.kind == "none"
    assert found.signal is None
    assert found.thread == target.pid
    assert found.process is not None
    assert found.process.pid == target.pid
    assert found.python is not None
    assert len(found.python.threads) == 3
    assert all(thread.frames[0].function == "waiting" for thread in found.python.threads)
    assert [len(group.threads) for group in found.others] == [2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may take the memory of any process here")
def test_what_is_explained_is_entered_into_the_record_of_custody(tmp_path: Path) -> None:
    core = tmp_path / "core.zst"
    target = subprocess.Popen(["sleep", "1000"])
    try:
        command = [sys.executable, "-m", "memdump"]
        time.sleep(0.2)
        subprocess.run([*command, "process", str(target.pid), str(core)], check=True, capture_output=True)
    finally:
        target.kill()
        target.wait()
    done = subprocess.run([*command, "explain", str(core)], capture_output=True, text=True, check=False)
    assert "(packed with zstd)" in done.stdout, done.stderr
    entries = (tmp_path / "core.zst.custody.jsonl").read_text().splitlines()
    assert '"opened"' in entries[-1]
