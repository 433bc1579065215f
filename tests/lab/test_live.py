"""The guest to work in is what other tests take it for."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.lab.live import MEMDUMP

if TYPE_CHECKING:
    from tests.lab.live import Live


def test_users_are_who_they_should_be_and_may_what_they_should(live: Live) -> None:
    assert live.run("id -un", user="analyst").stdout == b"analyst\n"
    assert live.run("sudo -n id -u", user="analyst").stdout == b"0\n"
    assert live.run("sudo -n id -u", user="visitor", check=False).stderr == b"sudo: a password is required\n"


def test_an_ssh_of_ones_own_gets_in_and_knows_the_host(live: Live) -> None:
    command = ["ssh", *live.ssh_options, "root@live", "uname -r"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout.startswith(b"6.12.")


def test_files_go_in_and_out(live: Live) -> None:
    live.put("/small/file", b"\0binary\xff")
    assert live.get("/small/file") == b"\0binary\xff"
    live.run("rm /small/file")


def test_memdump_is_there(live: Live) -> None:
    assert live.run(f"{MEMDUMP} --version").stdout.startswith(b"memdump ")


def test_memory_is_plugged_in_and_out(live: Live) -> None:
    address, size = live.plug("dimm")
    entry = f"{address:08x}-{address + size - 1:08x} : System RAM"
    assert entry in live.get("/proc/iomem").decode().splitlines()
    live.unplug("dimm")
    assert entry not in live.get("/proc/iomem").decode().splitlines()
    assert live.plugged() == {}
