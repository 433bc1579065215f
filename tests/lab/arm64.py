"""A guest with arm64 processors, in which processes are taken while they run.

It has neither disks nor a network: its system, made of Debian's packages for arm64, is what the kernel finds
in memory when it begins, and what it leaves comes back through a port.  ``python -m tests.lab.arm64`` makes
it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.lab import cache, kernels
from tests.lab.disks import USELESS
from tests.process.targets import CALLS, WAITING_FOR_ALL

HERE = Path(__file__).parent
SOURCE = HERE.parent.parent / "src" / "memdump"
PROGRAMS = HERE.parent / "process" / "targets"
KERNEL, EMULATOR = "6.12-arm64", "qemu-system-aarch64"
PORT = "/dev/vport0p1"
"""Where the guest writes to what goes back."""
PACKAGES = ["python3", "busybox-static", "gdb-minimal"]
TARGETS = ("blocked", "counting", "deep", "pattern", "signals")
PATIENCE = 900
MEMORY = "1G"

INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin:/usr/sbin:/sbin PYTHONPATH=/lab/src:/lab
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ip link set lo up
echo 100 > /proc/sys/net/ipv4/tcp_syn_retries
ulimit -c unlimited
python3 -m tests.lab.inside.arm64
sync
poweroff -f
"""


@dataclasses.dataclass(frozen=True)
class Made:
    """What the guest has left."""

    folder: Path
    system: Path
    """Its libraries, for a debugger."""

    @cached_property
    def told(self) -> dict[str, Any]:
        """What was seen in it (`tests.lab.inside.arm64`)."""
        told: dict[str, Any] = json.loads((self.folder / "told.json").read_text())
        return told

    def program(self, name: str) -> Path:
        """A program that ran in it."""
        return self.folder / "targets" / name


def get() -> Made:
    """The guest from the cache, else booted now; raises `cache.NoLab` where that cannot be."""
    found = compiler()
    kernel = kernels.get(KERNEL)
    system = kernels.get_packages("arm64", PACKAGES, architecture="arm64")
    target = cache.folder() / "guests" / "arm64"
    with cache.locked(target):
        key = _key(kernel)
        stamp = target / "made-from"
        if not stamp.exists() or stamp.read_text() != key:
            with cache.made_whole(target) as folder:
                _compile(found, folder / "targets")
                with tempfile.TemporaryDirectory(prefix="memdump-arm64-", dir=cache.folder()) as scratch:
                    _fill(Path(scratch) / "root", system, folder / "targets")
                    boot(Path(scratch) / "root", folder, folder / "console.log")
                (folder / "made-from").write_text(key)
    return Made(target, system)


def compiler() -> str:
    """The path of a compiler for arm64; raises `cache.NoLab`."""
    return cache.tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross")


def _compile(compiler: str, folder: Path) -> None:
    folder.mkdir()
    options = ["-g", "-O1", "-pthread"]
    for name in TARGETS:
        _call(compiler, *options, PROGRAMS / f"{name}.c", "-o", folder / name)
    vectors = "arm64_vectors"
    _call(compiler, *options, "-march=armv8-a+sve", PROGRAMS / f"{vectors}.c", "-o", folder / vectors)


def boot(root: Path, folder: Path, console: Path) -> None:
    """Boot a guest whose system is what is in ``root``, and unpack what it writes to its `PORT`.

    That is a packed archive, which goes to ``folder``.  The guest has to end by itself.  Raises `cache.NoLab`
    where it cannot be booted, and ``RuntimeError`` where nothing comes back.
    """
    command = [cache.tool(EMULATOR, "qemu-system-arm"), "-M", "virt", "-cpu", "max,pauth-impdef=on"]
    command += ["-smp", "2", "-m", MEMORY, "-accel", "tcg,thread=single", "-nographic", "-no-reboot"]
    command += ["-nodefaults", "-serial", f"file:{console}", "-kernel", str(kernels.get(KERNEL).image)]
    with tempfile.TemporaryDirectory(prefix="memdump-arm64-", dir=cache.folder()) as scratch:
        image, came_back = Path(scratch) / "root.cpio", Path(scratch) / "out.tar.gz"
        _pack(root, image)
        command += ["-initrd", str(image), "-append", "console=ttyAMA0 quiet panic=-1"]
        command += ["-device", "virtio-serial-pci", "-chardev", f"file,id=out,path={came_back}"]
        command += ["-device", "virtserialport,chardev=out"]
        try:
            _call(*command)
            with tarfile.open(came_back) as archive:
                archive.extractall(folder, filter="data")
        except (OSError, EOFError, tarfile.TarError, subprocess.TimeoutExpired) as error:
            said = console.read_text(errors="replace").splitlines()[-5:]
            raise RuntimeError(f"an arm64 guest left nothing: {error}: {' | '.join(said)}") from None


def _pack(root: Path, image: Path) -> None:
    """Make the archive that the kernel unpacks into its memory."""
    for name in ("proc", "sys", "dev"):
        (root / name).mkdir(exist_ok=True)
    names = "\0".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    with image.open("wb") as file:
        cpio = [cache.tool("cpio", "cpio"), "--create", "--format=newc", "--quiet", "--null"]
        subprocess.run(cpio, cwd=root, input=names.encode(), stdout=file, check=True)


def _fill(root: Path, system: Path, targets: Path) -> None:
    """Put into ``root`` what the guest needs to take processes."""

    def useless(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(system)
        return {name for name in names if USELESS.match(f"/{inside / name}/")}

    shutil.copytree(system, root, symlinks=True, ignore=useless)
    for name in ("tmp", "out", "lab"):
        (root / name).mkdir(exist_ok=True)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SOURCE, root / "lab" / "src" / "memdump", ignore=ignore)
    shutil.copytree(HERE / "inside", root / "lab" / "tests" / "lab" / "inside", ignore=ignore)
    shutil.copytree(targets, root / "lab" / "targets")
    (root / "lab" / "calls.json").write_text(json.dumps([*CALLS, *WAITING_FOR_ALL]))
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)


def _call(*command: object) -> None:
    done = subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise cache.NoLab(f"{command[0]} failed: {said[-1] if said else done.returncode}")


def _key(kernel: kernels.Kernel) -> str:
    """A digest of all that it comes from."""
    digest = hashlib.sha256(kernel.release.encode())
    parts = [SOURCE / "process", SOURCE / "machine", SOURCE / "cli", SOURCE / "seal.py", PROGRAMS]
    for part in [*parts, HERE / "inside" / "arm64.py", Path(__file__)]:
        for file in sorted(part.rglob("*.[pc]*")) if part.is_dir() else [part]:
            if file.suffix in (".py", ".c"):
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def main() -> int:
    """Make it, and say where it is."""
    try:
        made = get()
    except (cache.NoLab, RuntimeError) as error:
        print(f"the lab: {error}", file=sys.stderr)
        return 1
    print(made.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
