"""Cores that a kernel for arm64 writes: a small guest lets programs crash, and prints their cores."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.crash import cores
from tests.lab import cache, kernels

PATIENCE = 400
COMPILER = "aarch64-linux-gnu-gcc"
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
echo; echo BEGIN
$B tar c . | $B gzip | $B base64
echo END
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
    compiler = cache.tool(COMPILER, "gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
    emulator = cache.tool("qemu-system-aarch64", "qemu-system-arm")
    cache.tool("cpio", "cpio")
    kernel = kernels.get("6.12-arm64")
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
                _crash(emulator, kernel.image, busybox, folder)
                (folder / "made-from").write_text(key)
    return Cores(target)


def _compile(compiler: str, options: list[str], source: Path, target: Path) -> None:
    command = [compiler, *options, *cores.OPTIONS, "-static", "-o", str(target), source.name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=source.parent)
    if done.returncode:
        raise cache.NoLab(f"{compiler} makes no static programs: {done.stderr}")


def _crash(emulator: str, kernel: Path, busybox: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        shutil.copytree(folder / "root", root)
        for name in ("bin", "proc", "dev"):
            (root / name).mkdir()
        shutil.copy(busybox, root / "bin/busybox")
        (root / "init").write_text(INIT)
        (root / "init").chmod(0o755)
        names = "\n".join(str(path.relative_to(root)) for path in root.rglob("*"))
        packed, console = Path(scratch) / "initrd", Path(scratch) / "console"
        with packed.open("wb") as out:
            command = ["cpio", "-o", "-H", "newc", "--quiet"]
            subprocess.run(command, input=names.encode(), stdout=out, cwd=root, check=True)
        command = [emulator, "-M", "virt", "-cpu", "max,pauth-impdef=on", "-m", "1G", "-nographic"]
        command += ["-monitor", "none", "-serial", f"file:{console}", "-kernel", str(kernel)]
        command += ["-initrd", str(packed), "-append", "console=ttyAMA0 loglevel=0 panic=-1", "-no-reboot"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        said = console.read_text(errors="replace").replace("\r", "") if console.exists() else done.stderr
    _, begun, rest = said.partition("\nBEGIN\n")
    packed_cores, ended, _ = rest.partition("\nEND\n")
    if not begun or not ended:
        raise RuntimeError(f"the guest made no cores: {said[-300:]}")
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed_cores))) as archive:
        archive.extractall(folder / "cores", filter="data")


if __name__ == "__main__":
    print(get().folder)
