"""How well the kernel's structures fit together in images of a machine at work: ``python -m bench.smear``.

Guests fork, execute, open and connect all the time; memdump takes the memory of each twice, the
kernel's pages first and in ascending order.  Each image is followed link by link, and what leads
nowhere is counted.  ``python -m bench.smear IMAGE...`` counts in images that are there.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import drgn
from tests.lab import boot, disks, guests, kernels

import memdump
from memdump.kernel.problems import SMEAR
from memdump.kernel.resident import FRAME, LARGE, PRESENT, SPECIAL, TABLE_SIZE
from memdump.machine import manifest
from memdump.tables.tasks import all_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memdump.kernel.kernel import Kernel

KINDS = ("task", "file", "page table")
ORDERS = ("kernel-first", "ascending")
RECIPE = boot.Recipe("churn", "6.12", four_level=False, scenario="churn")
MOST = 1 << 16
MB = 1e6
UNMAPPED = -1
"""``page->_mapcount`` of a page that no page table maps."""


def main() -> None:
    """Take images in both orders, count, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.smear", description=__doc__)
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--memory", default="1G", help="of the guest (default: %(default)s)")
    args = parser.parse_args()
    if args.images:
        for image in args.images:
            _show(image.name, links(image))
    else:
        measure(args.rounds, args.memory)


def measure(rounds: int, memory: str) -> None:
    """Boot a guest in each round, take its memory in each order, and compare."""
    found: dict[str, Counter[str]] = {order: Counter() for order in ORDERS}
    for number in range(rounds):
        # Every other round begins with the other order.
        orders = ORDERS if number % 2 == 0 else ORDERS[::-1]
        with tempfile.TemporaryDirectory(prefix="memdump-bench-", dir="/var/tmp") as folder:
            for name, order in _take(Path(folder), number, orders, memory):
                _show_times(Path(folder) / name)
                counted = links(Path(folder) / name)
                _show(name, counted)
                found[order] += counted
    print("together:")
    for order, counted in found.items():
        _show(order, counted)
    for kind in KINDS:
        shares = [found[order][f"broken {kind}"] / max(found[order][kind], 1) for order in ORDERS]
        print(f"broken {kind} links: {shares[0]:.4%} kernel-first, {shares[1]:.4%} ascending")


def _take(folder: Path, number: int, orders: Sequence[str], memory: str) -> list[tuple[str, str]]:
    """Leave images in ``folder``, and give their names and orders."""
    carried = folder / "carried.ext4"
    guests.make_carried(carried)
    taken = [(f"{order}-{number}.lime", order) for order in orders]
    recipe = dataclasses.replace(RECIPE, memory=memory)
    with boot.Guest(recipe, kernels.get(recipe.kernel), carried, folder / "console.log") as guest:
        guest.hear("ready")
        for name, order in taken:
            status = guest.ask(f"acquire {name} --priority normal --order {order}", "acquired")
            print(f"{name}: status {status}", flush=True)
        guest.ask("end", "ended")
    disks.extract(carried, "/out", folder)
    carried.unlink()
    return taken


def links(image: Path) -> Counter[str]:
    """Count the links of an image, and those that are broken."""
    found: Counter[str] = Counter()
    with memdump.open(image) as dump:
        for kind, whole in itertools.chain(
            _task_links(dump.kernel), _file_links(dump.kernel), _page_table_links(dump.kernel)
        ):
            found[kind] += 1
            found[f"broken {kind}"] += not whole
    return found


def _show(name: str, counted: Counter[str]) -> None:
    parts = (
        f"{counted[f'broken {kind}']} of {counted[kind]} {kind}" for kind in ("task", "file", "page table")
    )
    print(f"{name:<24} broken links: {', '.join(parts)}", flush=True)


def _show_times(image: Path) -> None:
    """Say how long all was read, and the kernel's pages."""
    record = manifest.load(manifest.path_of(str(image)))
    early = record.staged
    pages = f"; {record.timings.staging:.1f} s for {early.size / MB:.0f} MB of the kernel" if early else ""
    late = f", {early.no_room / MB:.0f} MB of it later" if early and early.no_room else ""
    print(f"{image.name:<24} {record.timings.total:.1f} s in all{pages}{late}", flush=True)


def _task_links(kernel: Kernel) -> Iterator[tuple[str, bool]]:
    """A task's neighbours in the list of all tasks point back; so do its parent's children and its own."""
    for task in all_tasks(kernel, "bench"):
        if task.pid != task.group:
            continue  # only the first thread of a process is in these lists
        struct = drgn.Object(kernel.program, "struct task_struct", address=task.address)
        for name in ("tasks", "children", "sibling"):
            yield "task", _points_back(struct.member_(name))
        yield "task", _holds(lambda struct=struct: struct.signal.thread_head.next.value_() != 0)
        yield "task", _holds(lambda struct=struct: _parent_knows(struct))


def _points_back(head: Any) -> bool:
    return _holds(
        lambda: head.next.prev.value_() == head.address_ and head.prev.next.value_() == head.address_
    )


def _parent_knows(task: Any) -> bool:
    from drgn.helpers.linux.list import list_for_each_entry

    parent = task.real_parent
    children = list_for_each_entry("struct task_struct", parent.children.address_of_(), "sibling")
    leader = task.group_leader.value_()
    return any(child.value_() == leader for child in itertools.islice(children, MOST))


def _file_links(kernel: Kernel) -> Iterator[tuple[str, bool]]:
    """An open file leads to a name, the name to the same inode, and that to its file system."""
    from drgn.helpers.linux.fs import for_each_file

    for task in all_tasks(kernel, "bench"):
        try:
            files = list(itertools.islice(for_each_file(task.struct), MOST)) if task.struct.files else []
        except SMEAR:
            yield "file", False
            continue
        for _, file in files:
            yield "file", _holds(lambda file=file: _leads_to_its_inode(file))


def _leads_to_its_inode(file: Any) -> bool:
    inode = file.f_inode
    dentry = file.f_path.dentry
    return bool(
        dentry.d_inode.value_() == inode.value_()
        and inode.i_sb.value_() == dentry.d_sb.value_()
        and dentry.d_parent.d_sb.value_() == dentry.d_sb.value_()
    )


def _page_table_links(kernel: Kernel) -> Iterator[tuple[str, bool]]:
    """All pages that the page tables of an address space map know that they are mapped.

    It counts as one link: a table that belongs to somebody else by now leads to hundreds of thousands of
    wrong pages, and would outweigh all that is right.
    """
    from drgn.helpers.linux.mm import pfn_to_page

    def is_mapped(frame: int | None) -> bool:
        if frame is None:
            return False
        page = pfn_to_page(kernel.program, frame)
        return _holds(lambda: page._mapcount.counter.value_() != UNMAPPED)

    seen = set()
    for task in all_tasks(kernel, "bench"):
        if task.mm is None or task.mm.value_() in seen:
            continue
        seen.add(task.mm.value_())
        directory = task.mm.pgd.value_() - kernel.direct_map
        yield "page table", all(map(is_mapped, _mapped(kernel, directory, kernel.location.levels)))


def _mapped(kernel: Kernel, table: int, level: int) -> Iterator[int | None]:
    """Frame numbers of the small pages that tables map for a program; None for a table that is not there."""
    try:
        entries = memoryview(kernel.image.read(table, TABLE_SIZE)).cast("Q")
    except SMEAR:
        yield None
        return
    # The upper half of the top table is the kernel's.
    for entry in entries[: 256 if level == kernel.location.levels else 512]:
        if not entry & PRESENT or (entry & LARGE and level > 1):
            continue
        if level > 1:
            yield from _mapped(kernel, entry & FRAME, level - 1)
        elif not entry & SPECIAL:
            yield (entry & FRAME) // TABLE_SIZE


def _holds(condition: Any) -> bool:
    try:
        return bool(condition())
    except SMEAR:
        return False


if __name__ == "__main__":
    main()
