"""What an acquisition is measured with: made once, and kept in the lab's cache.

Nothing is installed on this machine.  Each raises `cache.NoLab` with what is missing.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from tests.lab import cache, disks, kernels

LIBRARIES = ("cryptography", "zstandard")
"""What memdump seals with."""
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


def emulator() -> str:
    """A QEMU that is new enough not to make digests a hundred times as slow as they are."""
    installed = cache.tool(QEMU, "qemu-system-x86")
    found = re.search(r"version (\d+)", cache.run(installed, "--version"))
    if found and int(found[1]) >= EMULATES_SHA:
        return installed
    root = kernels.get_packages(f"qemu-{QEMU_SUITE}", ["qemu-system-x86"], QEMU_SUITE)
    target = cache.folder() / "peers" / "qemu"
    with cache.locked(target), cache.made_whole(target) as folder:
        start = folder / QEMU
        start.write_text(START.format(root=root, program=QEMU))
        start.chmod(0o755)
    return str(target / QEMU)


def memdump(target: Path) -> None:
    """Put memdump and what it seals with into the folder ``target``, compiled, for the guests' Python."""
    version = cache.run(disks.PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    libraries = cache.folder() / "peers" / f"python{version}"
    with cache.locked(libraries):
        if not libraries.exists():
            with cache.made_whole(libraries) as folder:
                options = ["--only-binary=:all:", f"--python-version={version}", f"--target={folder}"]
                cache.run(sys.executable, "-m", "pip", "install", "--quiet", *options, *LIBRARIES)
    shutil.copytree(libraries, target, dirs_exist_ok=True)
    source = Path(__file__).parent.parent / "src" / "memdump"
    shutil.copytree(source, target / "memdump", ignore=shutil.ignore_patterns("__pycache__"))
    # Whoever has installed a program does not compile it at each start.
    options = ["-q", "--invalidation-mode", "unchecked-hash"]
    cache.run(disks.PYTHON, "-m", "compileall", *options, str(target))
