"""A guest to work in while it lives: commands run in it over a real ssh.

The other guests are over when a test looks at them.  What must be done to a running machine (taking its
memory over ssh, filling its disk, killing memdump in the middle) is done to this one.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import boot, cache, disks, guests, kernels

if TYPE_CHECKING:
    from types import TracebackType

PACKAGES = ["openssh-server", "sudo"]
KERNEL = "6.12"
SMALL = 64 << 20
OPTIONS = "kfence.sample_interval=20 swiotlb=noforce"
"""KFENCE puts pages around objects of the kernel that nobody may touch.  A kernel that may be given memory
above 4 GiB sets 64 MiB aside for devices that do not reach it, which there are none of."""
BLOCK = 128 << 20
"""Bytes of memory that the kernel takes and gives back at once."""
NAME = "live"
"""What ssh calls the guest, with `Live.ssh_options`."""

MEMDUMP = (
    "env PYTHONPATH=/lab/src PYTHONDONTWRITEBYTECODE=1 OPENSSL_ia32cap=~0x1000020000000000:~0x20 "
    "python3 -m memdump"
)
"""The command in the guest; for OPENSSL_ia32cap see inside/main.py."""

CONFIG = """\
Host {name}
  HostName 127.0.0.1
  Port {port}
  User root
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel ERROR
"""
REUSED = ("-oControlMaster=auto", "-oControlPersist=yes")
"""One connection for all commands of a user: to agree on keys takes seconds in emulation."""


class Live:
    """A booted guest, until the block is left; raises `cache.NoLab` where it cannot be had."""

    def __init__(self) -> None:
        for program in ("ssh", "ssh-keygen"):
            cache.tool(program, "openssh-client")
        system = kernels.get_packages("sshd", PACKAGES)
        kernel = kernels.get(KERNEL)
        cache.folder().mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="live-", dir=cache.folder()))
        """Keys, known hosts, ssh's configuration and the guest's console."""
        try:
            carried, small = self._disks(system)
            self._guest = boot.Guest(self._recipe(small), kernel, carried, self.folder / "console.log")
        except BaseException:
            shutil.rmtree(self.folder)
            raise
        try:
            self._guest.hear("ready")
            for disk in (carried, small):  # QEMU has them open, and whatever happens nothing stays behind
                disk.unlink()
            self._write_config()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def _recipe(self, small: Path) -> boot.Recipe:
        devices = (
            f"-m 512M,slots=4,maxmem=4G -drive file={small},format=raw,if=virtio,cache=unsafe "
            "-netdev user,id=n0,hostfwd=tcp:127.0.0.1:0-:22 -device virtio-net-pci,netdev=n0"
        )
        return boot.Recipe(
            "live", KERNEL, four_level=False, scenario="live", devices=devices, options=OPTIONS
        )

    def _disks(self, system: Path) -> tuple[Path, Path]:
        added, empty = self.folder / "added", self.folder / "empty"
        (added / "ssh").mkdir(parents=True)
        empty.mkdir()
        for name in ("host_key", "user_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", self.folder / name]
            subprocess.run(command, check=True)
        shutil.copy(self.folder / "host_key", added / "ssh" / "host_key")
        shutil.copy(self.folder / "user_key.pub", added / "ssh" / "authorized_keys")
        shutil.copytree(system, added / "system", symlinks=True)
        carried, small = self.folder / "carried.ext4", self.folder / "small.ext4"
        guests.make_carried(carried, added)
        disks.make(small, SMALL, empty, "-m", "0")
        shutil.rmtree(added)
        return carried, small

    def _write_config(self) -> None:
        self.port = self._forwarded_port()
        """On the host's loopback; leads to the guest's sshd."""
        key = (self.folder / "host_key.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}")
        self.config = self.folder / "ssh_config"
        self.config.write_text(CONFIG.format(name=NAME, port=self.port, folder=self.folder))
        self.ssh_options = ["-F", str(self.config)]
        """For ssh, with which the guest is ``root@live``, ``analyst@live`` and ``visitor@live``."""

    def _forwarded_port(self) -> int:
        told = self._guest.monitor.ask("human-monitor-command", **{"command-line": "info usernet"})
        found = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s", told)
        assert found, told
        return int(found[1])

    @property
    def pid(self) -> int:
        """The process of QEMU."""
        return self._guest.pid

    @property
    def monitor(self) -> boot.Monitor:
        """QEMU's machine protocol, connected."""
        return self._guest.monitor

    @property
    def qmp_path(self) -> Path:
        """A socket for QEMU's machine protocol to which nobody is connected."""
        return self._guest.qmp_path

    def dump(self, target: Path) -> None:
        """Have QEMU write the memory as an ELF core while the guest stands still."""
        self._guest.dump(target)

    def plug(self, name: str) -> tuple[int, int]:
        """Give the running guest memory, which its kernel takes at once for what it can move away again.

        The answer is its address and size, as QEMU says; `unplug` is the way back.
        """
        self.run("echo online_movable > /sys/devices/system/memory/auto_online_blocks")
        backing = {"qom-type": "memory-backend-ram", "id": f"memory-{name}", "size": BLOCK}
        self.monitor.ask("object-add", **backing)
        self.monitor.ask("device_add", driver="pc-dimm", id=name, memdev=f"memory-{name}")
        address, size = self.plugged()[name]
        self.run(f"until grep -q online /sys/devices/system/memory/memory{address // size}/state; do :; done")
        return address, size

    def plugged(self) -> dict[str, tuple[int, int]]:
        """Address and size of all that is plugged in, by name, as QEMU says."""
        devices = [device["data"] for device in self.monitor.ask("query-memory-devices")]
        return {device["id"]: (device["addr"], device["size"]) for device in devices}

    def unplug(self, name: str) -> None:
        """Ask the guest's kernel to let memory go until it does."""
        deadline = time.monotonic() + 60
        while name in self.plugged():
            assert time.monotonic() < deadline, f"the guest does not let {name} go"
            with contextlib.suppress(RuntimeError):  # it is asked already
                self.monitor.ask("device_del", id=name)
            time.sleep(0.2)
        self.monitor.ask("object-del", id=f"memory-{name}")

    def command(self, command: str, user: str = "root") -> list[str]:
        """The command line that runs ``command``, for the shell of that user in the guest."""
        path = f"-oControlPath={self._guest.sockets}/%r"
        return ["ssh", *self.ssh_options, *REUSED, path, f"{user}@{NAME}", "--", command]

    def run(
        self,
        command: str,
        user: str = "root",
        *,
        check: bool = True,
        input: bytes = b"",  # noqa: A002
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end; with ``check`` its failing is an `AssertionError` with what it said."""
        done = subprocess.run(self.command(command, user), input=input, capture_output=True, check=False)
        assert not check or done.returncode == 0, (
            f"{command}: status {done.returncode}: {done.stderr.decode()}"
        )
        return done

    def put(self, path: str, data: bytes) -> None:
        """Write a small file in the guest."""
        self.run(f"cat > '{path}'", input=data)

    def get(self, path: str) -> bytes:
        """Read a small file of the guest."""
        return self.run(f"cat '{path}'").stdout

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for socket in self._guest.sockets.glob("*"):
            if socket.name in ("root", "analyst", "visitor"):
                command = ["ssh", *self.ssh_options, f"-oControlPath={socket}", "-Oexit", NAME]
                subprocess.run(command, capture_output=True, check=False)
        self._guest.__exit__(kind, error, traceback)
        shutil.rmtree(self.folder)


def main() -> int:
    """Boot it for whoever wants to look around, until Enter is pressed."""
    try:
        with Live() as live:
            print(f"ssh {' '.join(live.ssh_options)} root@{NAME}\nQMP: {live.qmp_path}\nEnter ends it")
            with contextlib.suppress(KeyboardInterrupt):
                sys.stdin.readline()
    except (cache.NoLab, RuntimeError) as error:
        print(f"the lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
