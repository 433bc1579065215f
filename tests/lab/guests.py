"""The guests that tests share: each made once, and kept for as long as nothing it comes from changes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab import boot, cache, disks, gdbstub, kernels
from tests.lab.boot import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
SOURCE = HERE.parent.parent / "src" / "memdump"
ACQUISITION = (
    "__init__.py",
    "__main__.py",
    "errors.py",
    "machine",
    "cli/__init__.py",
    "cli/acquire.py",
    "report/__init__.py",
    "report/text.py",
)
"""The parts of memdump that run in a guest."""
RETURN_1 = bytes.fromhex("b8 01 00 00 00 c3")
"""mov $1, %eax; ret: what a kernel without CONFIG_STRICT_DEVMEM says of each page of /dev/mem."""


GUESTS = {
    recipe.name: recipe
    for recipe in (
        Recipe("5.10", "5.10", four_level=True),
        Recipe("6.1", "6.1", four_level=False),
        Recipe("6.12", "6.12", four_level=False),
        Recipe("7.x", "7.x", four_level=False),
        Recipe("6.12-4level", "6.12", four_level=True),
    )
}


@dataclasses.dataclass(frozen=True)
class Made:
    """A guest that was: its memory, and the truth about it, in a folder."""

    name: str
    folder: Path

    @property
    def qmp_image(self) -> Path:
        """The memory as QEMU wrote it, an ELF core, at the moment of the truth."""
        return self.folder / "memory.elf"

    @property
    def lime_image(self) -> Path:
        """The memory as ``memdump acquire`` wrote it inside the guest, just after."""
        return self.folder / "memory.lime"

    @functools.cached_property
    def truth(self) -> dict[str, Any]:
        """What the guest recorded of itself."""
        truth: dict[str, Any] = json.loads((self.folder / "truth.json").read_text())
        return truth


def get(recipe: Recipe) -> Made:
    """The guest from the cache, else booted now; raises `cache.NoLab` where that cannot be."""
    kernel = kernels.get(recipe.kernel)
    return kept(recipe.name, key(recipe, kernel), functools.partial(make, recipe, kernel))


def kept(name: str, key: str, make: Callable[[Path], None]) -> Made:
    """A guest as it is in the cache, else as ``make`` leaves it in a folder.

    With ``MEMDUMP_LAB_KEEP=1`` a guest in the cache is good whatever has changed since it was made.
    """
    target = cache.folder() / "guests" / name
    with cache.locked(target):
        stamp = target / "made-from"
        keep = os.environ.get("MEMDUMP_LAB_KEEP") == "1"
        if not stamp.exists() or (stamp.read_text() != key and not keep):
            try:
                _make_in_cache(make, target, key)
            except (
                RuntimeError
            ):  # emulation is not perfect: a kernel that boots a hundred times may panic once
                _make_in_cache(make, target, key)
    return Made(name, target)


def _make_in_cache(make: Callable[[Path], None], target: Path, key: str) -> None:
    with cache.made_whole(target) as folder:
        make(folder)
        (folder / "made-from").write_text(key)


def make(recipe: Recipe, kernel: kernels.Kernel, folder: Path) -> None:
    """Boot the guest, let it play its scenario, and leave image and truth in ``folder``."""
    began = time.monotonic()
    times = {}
    carried = folder / "carried.ext4"
    make_carried(carried)
    with boot.Guest(recipe, kernel, carried, folder / "console.log") as guest:
        guest.hear("ready")
        times["ready"] = time.monotonic() - began
        guest.ask("record", "recorded")
        times["recorded"] = time.monotonic() - began
        guest.dump(folder / "memory.elf")
        times["dumped"] = time.monotonic() - began
        status = guest.ask("acquire", "acquired")
        times["acquired"] = time.monotonic() - began
        guest.dump(folder / "later.elf")
        compared = guest.ask("sources", "compared")
        times["compared"] = time.monotonic() - began
        gdbstub.write(guest, int(guest.ask("find devmem_is_allowed", "found"), 16), RETURN_1)
        guest.dump(folder / "latest.elf")
        read = guest.ask("devmem", "read")
        guest.dump(folder / "last.elf")
        times["read"] = time.monotonic() - began
        guest.ask("end", "ended")
    disks.extract(carried, "/out", folder)
    carried.unlink()
    if status != "0":
        raise RuntimeError(
            f"memdump acquire ended with status {status}: {(folder / 'acquire.log').read_text()}"
        )
    if compared != "0":
        raise RuntimeError(f"the sources could not be compared: {(folder / 'sources.log').read_text()}")
    if read != "0":
        raise RuntimeError(f"/dev/mem could not be read: {(folder / 'devmem.log').read_text()}")
    for image in ("memory.elf", "memory.lime", "later.elf", "latest.elf", "last.elf"):
        (folder / image).chmod(0o644)
        make_sparse(folder / image)
    times["made"] = time.monotonic() - began
    (folder / "times.json").write_text(
        json.dumps({name: round(seconds, 1) for name, seconds in times.items()})
    )


def make_sparse(path: Path) -> None:
    """Give back the disk space of zero pages, where the file system can."""
    command = [cache.tool("fallocate", "util-linux"), "--dig-holes", str(path)]
    subprocess.run(command, capture_output=True, check=False)


def make_carried(disk: Path, added: Path | None = None) -> None:
    """The disk that goes with the guest: the scenario and memdump on it, room for what comes back.

    What is in the folder ``added`` goes with it as ``/lab/added``.
    """
    tree = disk.with_suffix(".tree")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(HERE / "inside", tree / "tests" / "lab" / "inside", ignore=ignore)
    shutil.copytree(SOURCE, tree / "src" / "memdump", ignore=ignore)
    if added:
        shutil.copytree(added, tree / "added", symlinks=True)
    (tree / "out").mkdir()
    disks.make(disk, 12 << 30, tree, "-O", "^has_journal", "-m", "0")
    shutil.rmtree(tree)


def key(recipe: Recipe, kernel: kernels.Kernel) -> str:
    """A digest of all that a guest comes from; a guest with another key is made anew."""
    digest = hashlib.sha256(repr(recipe).encode() + kernel.release.encode())
    sources = [SOURCE / part for part in ACQUISITION]
    lab = [HERE / name for name in ("inside", "boot.py", "disks.py", "gdbstub.py", "guests.py")]
    for source in [*sources, *lab]:
        for file in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
