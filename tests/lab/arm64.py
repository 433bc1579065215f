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

HERE = Path(__file__).parent
SOURCE = HERE.parent.parent / "src" / "memdump"
PROGRAMS = HERE.parent / "process" / "targets"
CRASHING = HERE.parent / "crash" / "programs" / "crash.c"
KERNEL = "6.12-arm64"
PACKAGES = ["python3", "busybox-static", "gdb-minimal"]
TARGETS = ("blocked", "counting", "deep", "pattern", "signals")
CALLS = (
    "read",
    "ppoll",
    "select",
    "epoll_pwait",
    "futex",
    "futex_timeout",
    "nanosleep",
    "accept",
    "accept_timeout",
    "recv_timeout",
    "semop",
    "sigtimedwait",
    "wait4",
)
"""What ``blocked.c`` may wait in on this processor."""
CRASHES = (
    "null_field",
    "write_read_only",
    "jump_to_data",
    "stack_overflow",
    "plain_abort",
    "illegal",
)
"""Ways in which ``crash.c`` crashes."""
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
    emulator = cache.tool("qemu-system-aarch64", "qemu-system-arm")
    compiler = cache.tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
    kernel = kernels.get(KERNEL)
    system = kernels.get_packages("arm64", PACKAGES, architecture="arm64")
    target = cache.folder() / "guests" / "arm64"
    with cache.locked(target):
        key = _key(kernel)
        stamp = target / "made-from"
        if not stamp.exists() or stamp.read_text() != key:
            with cache.made_whole(target) as folder:
                _compile(compiler, folder / "targets")
                _run(emulator, kernel, system, folder)
                (folder / "made-from").write_text(key)
    return Made(target, system)


def _compile(compiler: str, folder: Path) -> None:
    folder.mkdir()
    options = ["-g", "-O1", "-pthread"]
    for name in TARGETS:
        _call(compiler, *options, PROGRAMS / f"{name}.c", "-o", folder / name)
    vectors = "arm64_vectors"
    _call(compiler, *options, "-march=armv8-a+sve", PROGRAMS / f"{vectors}.c", "-o", folder / vectors)
    _call(compiler, "-g", "-O0", "-pthread", "-w", CRASHING, "-o", folder / "crash")


def _run(emulator: str, kernel: kernels.Kernel, system: Path, folder: Path) -> None:
    """Boot it, and unpack what comes back."""
    with tempfile.TemporaryDirectory(prefix="memdump-arm64-", dir=cache.folder()) as scratch:
        image, came_back = Path(scratch) / "root.cpio", Path(scratch) / "out.tar.gz"
        _make_root(system, folder / "targets", Path(scratch) / "root", image)
        command = [emulator, "-M", "virt", "-cpu", "max,pauth-impdef=on", "-smp", "2", "-m", MEMORY]
        command += ["-accel", "tcg,thread=single", "-nographic", "-no-reboot", "-nodefaults"]
        command += ["-serial", f"file:{folder / 'console.log'}", "-kernel", str(kernel.image)]
        command += ["-initrd", str(image), "-append", "console=ttyAMA0 quiet panic=-1"]
        command += ["-device", "virtio-serial-pci", "-chardev", f"file,id=out,path={came_back}"]
        command += ["-device", "virtserialport,chardev=out"]
        try:
            _call(*command)
            with tarfile.open(came_back) as archive:
                archive.extractall(folder, filter="data")
        except (OSError, tarfile.TarError, subprocess.TimeoutExpired) as error:
            said = (folder / "console.log").read_text(errors="replace").splitlines()[-5:]
            raise RuntimeError(f"the arm64 guest was not made: {error}: {' | '.join(said)}") from None


def _make_root(system: Path, targets: Path, root: Path, image: Path) -> None:
    """Make the archive that the kernel unpacks into its memory."""
    shutil.copytree(
        system,
        root,
        symlinks=True,
        ignore=lambda folder, names: {
            name for name in names if USELESS.match(f"/{Path(folder, name).relative_to(system)}/")
        },
    )
    for name in ("proc", "sys", "dev", "tmp", "out", "lab"):
        (root / name).mkdir(exist_ok=True)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SOURCE, root / "lab" / "src" / "memdump", ignore=ignore)
    shutil.copytree(HERE / "inside", root / "lab" / "tests" / "lab" / "inside", ignore=ignore)
    shutil.copytree(targets, root / "lab" / "targets")
    (root / "lab" / "calls.json").write_text(json.dumps(CALLS))
    (root / "lab" / "crashes.json").write_text(json.dumps(CRASHES))
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    names = "\0".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    with image.open("wb") as file:
        cpio = [cache.tool("cpio", "cpio"), "--create", "--format=newc", "--quiet", "--null"]
        subprocess.run(cpio, cwd=root, input=names.encode(), stdout=file, check=True)


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
    parts = [SOURCE / "process", SOURCE / "machine", SOURCE / "cli", SOURCE / "seal.py", PROGRAMS, CRASHING]
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
