"""What an acquisition is measured beside, and with: made once, and kept in the lab's cache.

Nothing is installed on this machine.  Each raises `cache.NoLab` with what is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.lab import cache, disks, kernels

LIBRARIES = ("cryptography", "zstandard")
"""What memdump seals with."""
LIME = "lime-forensics-dkms"
QEMU, QEMU_SUITE = "qemu-system-x86_64", "trixie"
EMULATES_SHA = 9
"""The first QEMU that emulates the instructions for SHA-256, and long vectors at a bearable price."""
START = """\
#!/bin/sh
# Runs a QEMU with the libraries, modules and firmware that it comes with, beside whatever is installed.
root={root}
libraries=$root/usr/lib/x86_64-linux-gnu
export QEMU_MODULE_DIR=$libraries/qemu
exec $root/usr/lib64/ld-linux-x86-64.so.2 --library-path $libraries $root/usr/bin/{program} \\
    -L $root/usr/share/qemu -L $root/usr/share/seabios "$@"
"""


def avml() -> Path:
    """AVML: the one on PATH, if it is new enough for ``avml acquire``, else built from its cargo package."""
    installed = shutil.which("avml")
    if installed:
        asked = subprocess.run([installed, "acquire", "--help"], capture_output=True, check=False)
        if not asked.returncode:
            return Path(installed)
    target = cache.folder() / "peers" / "avml"
    with cache.locked(target):
        if not target.exists():
            cargo = shutil.which("cargo")
            if not cargo:
                raise cache.NoLab("neither avml nor cargo, which could build it, is on PATH: see rustup.rs")
            with cache.made_whole(target) as folder:
                _run(cargo, "install", "--quiet", "--locked", "--root", str(folder), "avml")
    return target / "bin" / "avml"


def emulator() -> str:
    """A QEMU that is new enough not to make digests a hundred times as slow as they are."""
    installed = cache.tool(QEMU, "qemu-system-x86")
    found = re.search(r"version (\d+)", _run(installed, "--version"))
    if found and int(found[1]) >= EMULATES_SHA:
        return installed
    root = kernels.get_packages(f"qemu-{QEMU_SUITE}", ["qemu-system-x86"], QEMU_SUITE)
    target = cache.folder() / "peers" / "qemu"
    with cache.locked(target), cache.made_whole(target) as folder:
        start = folder / QEMU
        start.write_text(START.format(root=root, program=QEMU))
        start.chmod(0o755)
    return str(target / QEMU)


def lime(kernel: kernels.Kernel) -> Path:
    """LiME as a module of a kernel of this machine's own Debian release, built with this machine's gcc."""
    target = cache.folder() / "peers" / f"lime-{kernel.release}"
    with cache.locked(target):
        if not target.exists():
            headers = f"linux-headers-{kernel.release}"
            system = kernels.get_packages(headers, [headers, LIME])
            with cache.made_whole(target) as folder:
                _build_lime(system / "usr" / "src", headers, folder)
    return target / "lime.ko"


def _build_lime(sources: Path, headers: str, folder: Path) -> None:
    (source,) = sources.glob("lime-forensics-*")
    tree = sources / headers
    # Debian's file names its other half by the place where it is installed.
    makefile = tree / "Makefile"
    makefile.write_text(makefile.read_text().replace("include /usr/src/", f"include {sources}/"))
    shutil.copytree(source, folder, dirs_exist_ok=True)
    _run(cache.tool("make", "make"), "-C", str(tree), f"M={folder}", "modules")
    _run(cache.tool("strip", "binutils"), "--strip-debug", str(folder / "lime.ko"))


def memdump(target: Path) -> None:
    """Put memdump and what it seals with into the folder ``target``, compiled, for the guests' Python."""
    version = _run(disks.PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    libraries = cache.folder() / "peers" / f"python{version}"
    with cache.locked(libraries):
        if not libraries.exists():
            with cache.made_whole(libraries) as folder:
                options = ["--only-binary=:all:", f"--python-version={version}", f"--target={folder}"]
                _run(sys.executable, "-m", "pip", "install", "--quiet", *options, *LIBRARIES)
    shutil.copytree(libraries, target, dirs_exist_ok=True)
    source = Path(__file__).parent.parent / "src" / "memdump"
    shutil.copytree(source, target / "memdump", ignore=shutil.ignore_patterns("__pycache__"))
    # Whoever has installed a program does not compile it at each start.
    options = ["-q", "--invalidation-mode", "unchecked-hash"]
    _run(disks.PYTHON, "-m", "compileall", *options, str(target))


def _run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise cache.NoLab(f"{' '.join(command[:3])} failed: {said[-1] if said else done.returncode}")
    return done.stdout
