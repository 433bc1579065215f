"""An interactive bash on a terminal of its own, with commands typed at it."""

from __future__ import annotations

import os
import pty
import re
import select
import time
from typing import Any

PROMPT = b"lab-prompt> "
ASK = "HISTTIMEFORMAT='%s|' history"
"""Typed last: bash itself tells what it remembers, and when; the assignment holds for this one command."""


def typed(
    role: str, commands: list[str], uid: int, environment: dict[str, str], program: str = "/bin/bash"
) -> dict[str, Any]:
    """Start a bash as ``uid`` and type at it; the answer has its pid and its history as bash tells it."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        os.chdir("/")
        fixed = {"PATH": os.environ["PATH"], "PS1": PROMPT.decode(), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
        os.execve(program, ["bash", "--noprofile", "--norc", "-i"], {**fixed, **environment})
    os.set_inheritable(terminal, False)
    _read_to_prompt(terminal)
    for command in commands:
        os.write(terminal, os.fsencode(command) + b"\n")
        _read_to_prompt(terminal)
    os.write(terminal, ASK.encode() + b"\n")
    told = _read_to_prompt(terminal).decode(errors="surrogateescape")
    entries = re.split(r"^ *\d+  (\d+)\|", told.replace("\r\n", "\n"), flags=re.MULTILINE)[1:]
    history = [
        {"time": int(when), "command": text.removesuffix("\n" + PROMPT.decode()).removesuffix("\n")}
        for when, text in zip(entries[::2], entries[1::2], strict=True)
    ]
    return {"role": role, "pid": pid, "history": history, "terminal": os.readlink(f"/proc/{pid}/fd/0")}


def _read_to_prompt(terminal: int) -> bytes:
    said = b""
    deadline = time.monotonic() + 60
    while not said.endswith(PROMPT):
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise RuntimeError(f"bash says nothing more: {said!r}")
        said += os.read(terminal, 65536)
    return said
