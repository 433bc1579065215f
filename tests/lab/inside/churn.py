"""A machine at work: programs start and end, files and sockets come and go, as long as it lives."""

from __future__ import annotations

import mmap
import os
import socket
import time
from typing import Any

from tests.lab.inside import sockets

WORKERS = 3
PAUSE = 0.15
"""Seconds; without it an emulated machine would do nothing else."""
PAGES = 64


def run() -> dict[str, Any]:
    """Start the workers, which are the roles of this scenario."""
    sockets.ip("link set lo up")
    return {"workers": [_fork(number) for number in range(WORKERS)]}


def last_moment() -> None:
    """Nothing has to be done before the truth is written: it never stands still."""


def _fork(number: int) -> int:
    child = os.fork()
    if not child:
        while True:
            _round(number)
            time.sleep(PAUSE)
    return child


def _round(number: int) -> None:
    """Do a little of all that changes the kernel's structures."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client, listener.accept()[0]:
            client.send(b"x")
            path = f"/tmp/churn-{number}"
            with open(path, "wb") as file:
                file.write(os.urandom(3000))
            grandchild = os.fork()
            if not grandchild:
                _become_another(path)
            with mmap.mmap(-1, PAGES * mmap.PAGESIZE) as memory:
                for page in range(PAGES):
                    memory[page * mmap.PAGESIZE] = 1
            os.unlink(path)
            os.waitpid(grandchild, 0)


def _become_another(path: str) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.execv("/usr/bin/cat", ["cat", path, "/proc/self/maps", "/proc/self/status"])
