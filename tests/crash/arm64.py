"""Cores that a kernel for arm64 writes: a small guest lets programs crash, and gives their cores."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.crash import cores
from tests.lab import arm64, cache, kernels

PROGRAMS = {"crash": cores.DEBUG, "crash-stripped": cores.STRIPPED}
INIT = """\
#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t devtmpfs dev /dev
echo core > /proc/sys/kernel/core_pattern
ulimit -c unlimited
for program in crash crash-stripped; do
    for way in $(/crash); do
        $B mkdir -p /cores/$program/$way && cd /cores/$program/$way
        $B timeout 60 /$program $way > /dev/null 2>&1
    done
done
cd /cores
$B tar c . | $B gzip > {port}
$B poweroff -f
"""


class Cores(NamedTuple):
    """What the guest left."""

    folder: Path

    @property
    def root(self) -> Path:
        """The programs, as they were in the guest."""
        return self.folder / "root"

    def core(self, program: str, way: str) -> Path:
        """The core of a program that crashed in a way."""
        return self.folder / "cores" / program / way / "core"


def get() -> Cores:
    """The cores from the lab's cache, else a guest is booted; raises `cache.NoLab` where that cannot be."""
    compiler, kernel = arm64.compiler(), kernels.get(arm64.KERNEL)
    busybox = kernels.get_packages("busybox-arm64", ["busybox-static"], architecture="arm64") / "bin/busybox"
    source = cores.PROGRAMS / "crash.c"
    key = "\n".join([kernel.release, INIT, str(PROGRAMS), source.read_text()])
    target = cache.folder() / "guests" / "crashed-arm64"
    with cache.locked(target):
        stamp = target / "made-from"
        keep = os.environ.get("MEMDUMP_LAB_KEEP") == "1"
        if not stamp.exists() or (stamp.read_text() != key and not keep):
            with cache.made_whole(target) as folder:
                (folder / "root").mkdir()
                for name, options in PROGRAMS.items():
                    _compile(compiler, options, source, folder / "root" / name)
                _crash(busybox, folder)
                (folder / "made-from").write_text(key)
    return Cores(target)


def _compile(compiler: str, options: list[str], source: Path, target: Path) -> None:
    command = [compiler, *options, *cores.OPTIONS, "-static", "-o", str(target), source.name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=source.parent)
    if done.returncode:
        raise cache.NoLab(f"{compiler} makes no static programs: {done.stderr}")


def _crash(busybox: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        shutil.copytree(folder / "root", root)
        (root / "bin").mkdir()
        shutil.copy(busybox, root / "bin/busybox")
        (root / "init").write_text(INIT.format(port=arm64.PORT))
        (root / "init").chmod(0o755)
        arm64.boot(root, folder / "cores", folder / "console.log")


if __name__ == "__main__":
    print(get().folder)
