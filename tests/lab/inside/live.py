"""A guest to work in: a real sshd and sudo, a network, and a small disk that fills up soon."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.lab.inside import scenario, sockets

ADDED = Path("/lab/added")
"""What the host sends along: ``system``, files to put in place, and ``ssh``, the keys."""
KEYS = Path("/run/lab-ssh")
OWN, HOST = "10.0.2.15", "10.0.2.2"
"""The addresses that QEMU's user networking gives to the guest and to the host's loopback."""
LOGINS = {"analyst": 1000, "visitor": 1001}
"""The users beside root; `analyst` may do anything with sudo, and needs no password for it."""

SSHD = f"""
HostKey {KEYS}/host_key
AuthorizedKeysFile {KEYS}/authorized_keys
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 100
MaxSessions 100
PidFile none
Subsystem sftp internal-sftp
"""


def run() -> dict[str, Any]:
    """Bring up the network, the small disk, the users, sudo and sshd."""
    scenario.load_modules("virtio_net")
    sockets.ip(
        "link set lo up", f"addr add {OWN}/24 dev eth0", "link set eth0 up", f"route add default via {HOST}"
    )
    subprocess.run(["mount", "/dev/vdc", "/small"], check=True)
    for folder in ("etc", "lib", "usr"):  # these can be written to; the root folder cannot
        if (ADDED / "system" / folder).exists():
            shutil.copytree(ADDED / "system" / folder, f"/{folder}", symlinks=True, dirs_exist_ok=True)
    _users()
    _sudo()
    _sshd()
    return {}


def last_moment() -> None:
    """Nothing passes here."""


def _users() -> None:
    known = Path("/etc/passwd").read_text()
    lines = [f"{name}:x:{uid}:{uid}::/home/{name}:/bin/bash\n" for name, uid in LOGINS.items()]
    lines.append("sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n")
    with Path("/etc/passwd").open("a") as file:
        file.writelines(line for line in lines if f"\n{line.split(':')[0]}:" not in known)
    # To sshd an account whose password is "!" is locked, and one whose password is "*" has none.
    names = [line.split(":")[0] for line in Path("/etc/passwd").read_text().splitlines()]
    Path("/etc/shadow").write_text("".join(f"{name}:*:19000:0:99999:7:::\n" for name in names))
    for name, uid in LOGINS.items():
        home = Path("/home") / name
        home.mkdir(mode=0o700, exist_ok=True)
        os.chown(home, uid, uid)


def _sudo() -> None:
    Path("/etc/sudoers").write_text(
        'Defaults secure_path="/usr/sbin:/usr/bin:/sbin:/bin"\n'
        "root ALL=(ALL) NOPASSWD: ALL\nanalyst ALL=(ALL) NOPASSWD: ALL\n"
    )
    for service in ("sudo", "other"):  # Debian's include files that only its installation makes
        Path("/etc/pam.d", service).write_text(
            "auth required pam_deny.so\naccount required pam_permit.so\nsession required pam_permit.so\n"
        )
    Path("/usr/bin/sudo").chmod(0o4755)  # whoever unpacked it may not have been root


def _sshd() -> None:
    shutil.copytree(ADDED / "ssh", KEYS)
    (KEYS / "host_key").chmod(0o600)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (KEYS / "sshd_config").write_text(SSHD)
    subprocess.run(["/usr/sbin/sshd", "-f", str(KEYS / "sshd_config"), "-E", "/dev/console"], check=True)
    while True:  # it goes into the background before it listens
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", 22)):
            return
        time.sleep(0.1)
