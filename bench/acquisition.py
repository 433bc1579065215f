"""``memdump acquire`` beside AVML and LiME, inside one guest: ``python -m bench.acquisition``.

All take the memory of the same guest, in turns, several rounds, and the best round of each counts.  Before
each run the guest reads the same files, so that its memory holds the same.  The clock stops when the image is
on the disk: memdump ends then, after the others the disk is asked to take what they left behind.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab import boot, cache, guests, kernels, takers
from tests.lab.inside import speed

from bench import peers
from bench.processes import verdict
from memdump.image.age_keys import X25519Recipient, x25519_public

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTENDERS = (
    "reading kcore",
    "reading ebpf",
    "avml",
    "lime",
    "lime digest=sha256",
    "memdump kcore .lime",
    "memdump ebpf .lime",
    "avml --compress",
    "lime compress=1",
    "memdump kcore .lime.zst",
    "memdump ebpf .lime.zst",
    "memdump kcore .lime.zst.age",
    "memdump ebpf .lime.zst.age",
)
COMPARISONS = (
    ("speed of avml", "durable", "memdump kcore .lime", "avml"),
    ("  in QEMU's processor time", "emulation", "memdump kcore .lime", "avml"),
    ("speed of lime", "durable", "memdump kcore .lime", "lime"),
    ("  in QEMU's processor time", "emulation", "memdump kcore .lime", "lime"),
    ("speed of lime digest=sha256", "durable", "memdump kcore .lime", "lime digest=sha256"),
    ("  in QEMU's processor time", "emulation", "memdump kcore .lime", "lime digest=sha256"),
    ("speed of avml --compress", "durable", "memdump kcore .lime.zst", "avml --compress"),
    ("  in QEMU's processor time", "emulation", "memdump kcore .lime.zst", "avml --compress"),
    ("  smaller by", "size", "memdump kcore .lime.zst", "avml --compress"),
    ("speed of lime compress=1", "durable", "memdump kcore .lime.zst", "lime compress=1"),
    ("  smaller by", "size", "memdump kcore .lime.zst", "lime compress=1"),
    ("reading through ebpf, beside kcore", "reading", "reading ebpf", "reading kcore"),
)
"""What is compared by which figure: ours, and that of which it should at least be as good."""
MB = 1e6

Taken = dict[str, Any]


def main() -> int:
    """Measure and print; 1 where there is no lab."""
    parser = argparse.ArgumentParser(prog="python -m bench.acquisition", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--memory", default="1G", help="of the guest (default: %(default)s)")
    parser.add_argument("--emulator", help="QEMU (default: the one on PATH, or a newer one where it is old)")
    parser.add_argument("--accelerator", default=boot.ACCELERATOR, help="QEMU's (default: %(default)s)")
    parser.add_argument("--processor", default=boot.CPU, help="QEMU's (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=CONTENDERS, help="may be given several times")
    args = parser.parse_args()
    recipe = boot.Recipe(
        "speed",
        takers.KERNELS.get(kernels.own_release(), "6.1"),
        four_level=True,
        scenario="speed",
        memory=args.memory,
        accelerator=args.accelerator,
        processor=args.processor,
    )
    try:
        recipe = dataclasses.replace(recipe, emulator=args.emulator or peers.emulator())
        measure(recipe, args.rounds, args.only or CONTENDERS)
    except cache.NoLab as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def measure(recipe: boot.Recipe, rounds: int, contenders: Sequence[str] = CONTENDERS) -> None:
    """Run all in turns, print what each took, and how memdump stands."""
    runs: dict[str, list[Taken]] = {}
    with tempfile.TemporaryDirectory(prefix="memdump-bench-", dir="/var/tmp") as folder:
        for name, taken in _run(recipe, rounds, contenders, Path(folder)):
            runs.setdefault(name, []).append(taken)
    print(f"\nbest of {rounds} rounds, {recipe.memory} of memory")
    print(f"emulated with {recipe.accelerator}, -cpu {recipe.processor}")
    for name, rounds_of_it in runs.items():
        _say(name, min(rounds_of_it, key=lambda one: float(one["durable"])))
    for what, key, ours, theirs in COMPARISONS:
        if ours in runs and theirs in runs:
            mine, other = (min(taken[key] for taken in runs[name]) for name in (ours, theirs))
            print(verdict(what, other / mine, 1))


def _run(
    recipe: boot.Recipe, rounds: int, contenders: Sequence[str], folder: Path
) -> list[tuple[str, Taken]]:
    kernel = kernels.get(recipe.kernel)
    carried = folder / "carried.ext4"
    _make_carried(carried, kernel, folder / "added")
    runs = []
    with boot.Guest(recipe, kernel, carried, folder / "console.log") as guest:
        carried.unlink()
        guest.hear("ready")
        for _ in range(rounds):
            for name in contenders:
                taken = _take(guest, name)
                if taken["status"]:
                    raise RuntimeError(f"{name}: status {taken['status']}: {taken['said']}")
                runs.append((name, taken))
                _say(name, taken)
    return runs


def _take(guest: boot.Guest, name: str) -> Taken:
    guest.ask(f"do {speed.READY}", "did")
    before = _used(guest.pid)
    taken: Taken = json.loads(guest.ask(f"do {name}", "did"))
    return {**taken, **taken["timings"], "emulation": _used(guest.pid) - before}


def _used(pid: int) -> float:
    """Seconds of processor time that a process of this machine has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _make_carried(carried: Path, kernel: kernels.Kernel, added: Path) -> None:
    """Make the disk with all that takes memory, and with files for the guest to read."""
    (added / "python").mkdir(parents=True)
    shutil.copy(takers.avml(), added / "avml")
    shutil.copy(takers.lime(kernel), added / "lime.ko")
    peers.memdump(added / "python")
    (added / "recipient").write_text(f"{X25519Recipient(x25519_public(bytes(range(32))))}\n")
    shutil.copytree(kernel.root / "lib" / "modules" / kernel.release / "kernel", added / "files")
    guests.make_carried(carried, added)
    shutil.rmtree(added)


def _say(name: str, taken: Taken) -> None:
    print(
        f"{name:<28} {taken['durable']:7.1f} s ({taken['seconds']:7.1f} to its end) "
        f"{taken['processor']:7.1f} s CPU ({taken['emulation']:7.1f} of QEMU) "
        f"{taken['size'] / MB:8,.0f} MB {taken['memory'] / MB:6,.0f} MB resident",
        *(f"{step} {seconds:.1f}" for step, seconds in taken["timings"].items() if seconds >= 0.1),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
