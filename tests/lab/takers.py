"""Other programs that take memory: built once, and kept in the lab's cache.

Nothing is installed on this machine.  Each raises `cache.NoLab` with what is missing.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.lab import cache, kernels

KERNELS = {"bookworm": "6.1", "trixie": "6.12"}
"""The lab's kernel of a Debian release: modules are built with that release's own compiler."""
LIME = "lime-forensics-dkms"
CRASH, CRASH_SUITES = "crash", ("trixie", "sid")
"""The source package that has the crash driver, and where to look for it."""


def own_kernel() -> kernels.Kernel:
    """The kernel of this machine's own Debian release, which modules can be built for."""
    return kernels.get(KERNELS.get(kernels.own_release(), "6.1"))


def avml(*, build: bool = True) -> Path:
    """AVML: the one on PATH, if it is new enough for ``avml acquire``, else built from its cargo package.

    Unless it is to ``build`` it, only what was built before is given.
    """
    installed = shutil.which("avml")
    if installed:
        asked = subprocess.run([installed, "acquire", "--help"], capture_output=True, check=False)
        if not asked.returncode:
            return Path(installed)
    target = _place("avml")
    with cache.locked(target):
        if not target.exists():
            if not build:
                raise cache.NoLab("avml is not on PATH; where cargo is, python -m tests.lab builds it")
            cargo = shutil.which("cargo")
            if not cargo:
                raise cache.NoLab("neither avml nor cargo, which could build it, is on PATH: see rustup.rs")
            with cache.made_whole(target) as folder:
                # What it needs for sending an image away takes ten times as long to build as the rest.
                options = ["--quiet", "--locked", "--no-default-features", "--features", "convert"]
                cache.run(cargo, "install", *options, "--root", str(folder), "avml")
    return target / "bin" / "avml"


def lime(kernel: kernels.Kernel) -> Path:
    """LiME as a module of `own_kernel`."""
    target = _place(f"lime-{kernel.release}")
    with cache.locked(target):
        if not target.exists():
            (source,) = _headers(kernel).glob("lime-forensics-*")
            with cache.made_whole(target) as folder:
                shutil.copytree(source, folder, dirs_exist_ok=True)
                _build(kernel, folder, "lime.ko")
    return target / "lime.ko"


def crash(kernel: kernels.Kernel) -> Path:
    """The driver of ``/dev/crash``, which comes with the crash utility, as a module of `own_kernel`."""
    target = _place(f"crash-{kernel.release}")
    with cache.locked(target):
        if not target.exists():
            with cache.made_whole(target) as folder:
                _fetch_crash(folder)
                _build(kernel, folder, "crash.ko")
    return target / "crash.ko"


def _fetch_crash(folder: Path) -> None:
    """Put the driver's files, out of the source of the crash utility, into ``folder``."""
    with tempfile.TemporaryDirectory(prefix="memdump-apt-") as scratch:
        for path in kernels.get_source(CRASH, CRASH_SUITES, Path(scratch)):
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.isfile() and Path(member.name).parent.name == "memory_driver":
                        member.name = Path(member.name).name
                        archive.extract(member, folder, filter="data")
    if not (folder / "crash.c").exists():
        raise cache.NoLab(f"the source package {CRASH} has no memory_driver/crash.c")


def _headers(kernel: kernels.Kernel) -> Path:
    """Where the kernel's headers are unpacked, and the source of LiME with them."""
    headers = f"linux-headers-{kernel.release}"
    return kernels.get_packages(headers, [headers, LIME]) / "usr" / "src"


def _build(kernel: kernels.Kernel, folder: Path, module: str) -> None:
    """Build the module whose source is in ``folder``, there."""
    sources = _headers(kernel)
    tree = sources / f"linux-headers-{kernel.release}"
    # Debian's file names its other half by the place where it is installed.
    makefile = tree / "Makefile"
    makefile.write_text(makefile.read_text().replace("include /usr/src/", f"include {sources}/"))
    cache.run(cache.tool("make", "make"), "-C", str(tree), f"M={folder}", "modules")
    cache.run(cache.tool("strip", "binutils"), "--strip-debug", str(folder / module))


def _place(name: str) -> Path:
    return cache.folder() / "peers" / name
