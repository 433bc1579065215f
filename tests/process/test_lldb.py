"""Cores opened with lldb, beside gcore's of the same process."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.lab import cache, kernels
from tests.process.targets import built, needs_gcc, needs_gdb, running

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = [needs_gcc, needs_gdb]
THREADS = 7
ASKED = ["thread list", "thread backtrace all", "image list", "expression -- &ends", "register read --all"]
for number in range(2, THREADS + 1):
    ASKED += [f"thread select {number}", "register read --all"]
OF_PYTHON = re.compile(
    r"Traceback .*\n  File \"<string>\".*\n(ModuleNotFoundError|NameError): .*\n", re.MULTILINE
)
"""What lldb says where its own Python modules are not where it looks for them; nothing here needs them."""


@functools.cache
def lldb() -> tuple[str, dict[str, str]]:
    """The debugger and what it needs around it: installed, or unpacked from its packages."""
    installed = shutil.which("lldb")
    if installed:
        return installed, dict(os.environ)
    root = kernels.get_packages("lldb", ["lldb"])
    folders = [*root.glob("usr/lib/*-linux-gnu"), *root.glob("usr/lib/llvm-*/lib")]
    return str(root / "usr/bin/lldb"), {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, folders))}


def told(program: Path, core: Path, commands: Sequence[str]) -> str:
    try:
        debugger, environment = lldb()
    except cache.NoLab as error:
        pytest.skip(f"lldb is not to be had: {error}")
    words = [debugger, "--batch", "--no-lldbinit", "--core", str(core), str(program)]
    for command in commands:
        words += ["--one-line", command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
    complaints = OF_PYTHON.sub("", done.stderr)
    assert "warning" not in complaints.lower(), complaints
    assert "error" not in complaints.lower(), complaints
    return done.stdout.replace(str(core), "CORE")


def comparable(text: str) -> str:
    """Leave out what gcore says of a signal that there was none of, and a register that it does not know.

    When lldb tells of the thread that is selected is a matter of chance, so of what comes behind the first
    registers only registers are kept.
    """
    first, _, text_behind = text.partition("(lldb) register read --all\n")
    text = first + "\n".join(re.findall(r"^ +\w+ = .*$", text_behind, re.MULTILINE))
    text = re.sub(r"stop reason = signal \w+", "stop reason", text)
    return re.sub(r"mxcsrmask = 0x\w+", "mxcsrmask", text)


@pytest.mark.parametrize("mode", ["fork", "freeze"])
def test_lldb_sees_what_it_sees_in_gcore_s_core(tmp_path: Path, mode: str) -> None:
    with running("deep", THREADS - 1) as target:
        words = [sys.executable, "-m", "memdump", "process", str(target.pid), str(tmp_path / "ours")]
        subprocess.run([*words, "--mode", mode], capture_output=True, check=True, timeout=120)
        subprocess.run(["gcore", "-o", tmp_path / "peer", str(target.pid)], check=True, capture_output=True)
        ours = told(built("deep"), tmp_path / "ours", ASKED)
        peer = told(built("deep"), tmp_path / f"peer.{target.pid}", ASKED)
    assert ours.count("`go_down(") > THREADS
    assert len(re.findall(r"tid = \d+", ours)) == THREADS
    assert len(re.findall(r"^ +rip = 0x", ours, re.MULTILINE)) == THREADS
    assert "libc.so.6" in ours
    assert comparable(ours) == comparable(peer)
