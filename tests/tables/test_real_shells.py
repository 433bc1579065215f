"""Shells of this machine, typed at, and their memory as /proc gives it: quicker than a guest, and zsh too."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memdump.tables import bash, zsh
from memdump.tables.heap import Heap

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

PROMPT = "lab-prompt> "
WRITABLE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0 +(\[heap\])?$", re.MULTILINE)
TYPED = [
    "whoami",
    "for i in 1 2; do echo $i; done",
    "echo café 日本語",
    "echo '#1700000000'",
    "echo " + "long" * 300,
]


class Shell:
    """An interactive shell on a terminal."""

    def __init__(self, program: str, arguments: list[str], home: Path) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PS1": PROMPT,
            "TERM": "dumb",
            "LC_ALL": "C.UTF-8",
        }
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.execve(program, arguments, environment)
        self._read_to_prompt()

    def type(self, line: str) -> None:
        os.write(self._terminal, line.encode() + b"\n")
        self._read_to_prompt()

    def memory(self) -> Iterator[tuple[int, bytes]]:
        process = Path("/proc") / str(self.pid)
        with (process / "mem").open("rb", 0) as memory:
            for start, end, _ in WRITABLE.findall((process / "maps").read_text()):
                memory.seek(int(start, 16))
                yield int(start, 16), memory.read(int(end, 16) - int(start, 16))

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)

    def _read_to_prompt(self) -> None:
        said = b""
        while not said.endswith(PROMPT.encode()):
            ready, _, _ = select.select([self._terminal], [], [], 60)
            assert ready, said
            said += os.read(self._terminal, 65536)


@pytest.mark.parametrize(
    ("finder", "arguments", "load"),
    [
        (bash, ["bash", "--noprofile", "--norc", "-i"], "HISTTIMEFORMAT=; history -r"),
        (zsh, ["zsh", "-f", "-i", "+Z"], "HISTSIZE=1000; fc -R"),
    ],
    ids=["bash", "zsh"],
)
def test_what_was_typed_is_found(finder: ModuleType, arguments: list[str], load: str, tmp_path: Path) -> None:
    program = shutil.which(finder.NAME)
    if not program:
        pytest.skip(f"{finder.NAME} is not installed")
    old = tmp_path / "old"
    old.write_text("#1600000001\nold\n" if finder is bash else ": 1600000001:0;old\n")
    before = int(time.time())
    shell = Shell(program, arguments, tmp_path)
    try:
        for line in (f"{load} {old}", *TYPED):
            shell.type(line)
        found = finder.find_history(Heap(shell.memory()))
    finally:
        shell.end()
    assert [line.text.decode() for line in found] == [f"{load} {old}", "old", *TYPED]
    assert found[1].seconds == 1_600_000_001
    assert all(before <= line.seconds <= time.time() for line in found if line is not found[1])
