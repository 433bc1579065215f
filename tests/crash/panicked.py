"""A kernel that panicked: a guest of the lab is made to, and QEMU writes its memory down afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.lab import cache, guests, kernels
from tests.lab.live import KERNEL, Live

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 240
TAINT = 512
"""``TAINT_WARN``: the letter W."""
CRASH = (
    "echo 0 > /proc/sys/kernel/panic; "
    f"echo {TAINT} > /proc/sys/kernel/tainted; modprobe loop; "
    "cat /proc/modules > /tmp/modules; sync; "
    "exec taskset -c 1 sh -c 'echo $$; cat /proc/sys/kernel/tainted; cat /tmp/modules; "
    "echo end; sleep 2; echo c > /proc/sysrq-trigger'"
)
"""Root's shell on the second processor asks for a crash (``Documentation/admin-guide/sysrq.rst``)."""


CRASH_IN_MODULE = (
    "echo 0 > /proc/sys/kernel/panic; modprobe softdog soft_panic=1 soft_margin=2; "
    "echo $$; cat /proc/sys/kernel/tainted; cat /proc/modules; echo end; "
    "exec 3> /dev/watchdog; exec sleep 99"
)
"""A watchdog in software that nobody feeds panics in its timer, which is a module's code in an interrupt."""
WAYS = {"panicked": CRASH, "panicked-module": CRASH_IN_MODULE}


@dataclass(frozen=True)
class Panicked:
    """The memory of the guest, and what it said of itself right before."""

    folder: Path

    @property
    def image(self) -> Path:
        """QEMU's ELF core."""
        return self.folder / "memory.elf"

    @property
    def console(self) -> str:
        """What the kernel printed when it panicked."""
        return (self.folder / "console.log").read_text(errors="replace")

    @property
    def told(self) -> list[str]:
        """Pid of the shell, taint, then the lines of ``/proc/modules``."""
        told: list[str] = json.loads((self.folder / "told.json").read_text())
        return told


def get(way: str = "panicked") -> Panicked:
    """One of `WAYS` from the lab's cache, else booted now; raises `cache.NoLab` where that cannot be."""
    kernel = kernels.get(KERNEL)
    target = cache.folder() / "guests" / way
    with cache.locked(target):
        stamp = target / "made-from"
        key = f"{kernel.release} {WAYS[way]}"
        keep = os.environ.get("MEMDUMP_LAB_KEEP") == "1"
        if not stamp.exists() or (stamp.read_text() != key and not keep):
            with cache.made_whole(target) as folder:
                _make(folder, WAYS[way])
                (folder / "made-from").write_text(key)
    return Panicked(target)


def _make(folder: Path, crash: str) -> None:
    with Live() as live:
        shell = subprocess.Popen(
            live.command(crash), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        assert shell.stdout
        told = []
        for line in shell.stdout:
            if line.strip() == "end":
                break
            told.append(line.strip())
        try:
            _wait_for_panic(live.folder / "console.log")
            image = folder / "memory.elf"
            live.dump(image)
        finally:
            shell.kill()
            shell.wait()
        with contextlib.suppress(OSError):
            (folder / "console.log").write_bytes((live.folder / "console.log").read_bytes())
    image.chmod(0o644)
    guests.make_sparse(image)
    (folder / "told.json").write_text(json.dumps(told))


def _wait_for_panic(log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while b"end Kernel panic" not in log.read_bytes():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the guest does not panic: {log.read_text(errors='replace')[-300:]}")
        time.sleep(0.5)
    time.sleep(1)


if __name__ == "__main__":
    print(get().folder)
