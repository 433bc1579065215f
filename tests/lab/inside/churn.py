"""A machine at work: processes begin and end, with files, sockets and memory, as long as it lives.

As on a server, some of them live for a moment and some for a minute.  An emulated machine does everything
many times more slowly, so they live longer here than those of a server do.
"""

from __future__ import annotations

import mmap
import os
import random
import socket
import time
from typing import Any

from tests.lab.inside import sockets

PROCESSES = 40
SHORTEST, LONGEST = 1.0, 90.0
"""Seconds that they live; as many live for one to two as for 45 to 90."""
PAUSE = 0.5
PAGES = 64


def run() -> dict[str, Any]:
    """Start the process that starts the others."""
    sockets.ip("link set lo up")
    child = os.fork()
    if not child:
        while True:
            _keep_full()
    return {"keeper": child}


def last_moment() -> None:
    """Nothing has to be done before the truth is written: it never stands still."""


def _keep_full() -> None:
    """Have so many processes, whatever they come from."""
    living = 0
    while True:
        while living < PROCESSES:
            if not os.fork():
                try:
                    _live(SHORTEST * (LONGEST / SHORTEST) ** random.random())
                finally:
                    os._exit(0)
            living += 1
        os.wait()
        living -= 1


def _live(seconds: float) -> None:
    """Be a process with a life, half of them by another program."""
    random.seed()
    path = f"/tmp/churn-{os.getpid()}"
    if random.random() < 1 / 2:
        kept = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        os.set_inheritable(kept, True)
        os.unlink(path)
        os.execv("/usr/bin/sleep", ["sleep", f"{seconds:.2f}"])
    end = time.monotonic() + seconds
    with socket.socket() as listener, mmap.mmap(-1, PAGES * mmap.PAGESIZE) as memory:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client, listener.accept()[0]:
            page = 0
            while time.monotonic() < end:
                client.send(b"x")
                memory[page % PAGES * mmap.PAGESIZE] = 1
                page += 1
                with open(path, "wb") as file:
                    file.write(os.urandom(3000))
                    time.sleep(PAUSE)
    os.unlink(path)
