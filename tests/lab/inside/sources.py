"""Read the memory of the guest through kcore and ebpf, back to back, and write down how they compare.

``python -m tests.lab.inside.sources FOLDER`` leaves ``sources.json`` and ``ebpf.crc`` there: the CRC-32 of
each page as ebpf read it, in the order of the ranges.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import mmap
import os
import resource
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdump.errors import MemdumpError
from memdump.machine import direct_map, pieces, sources
from memdump.machine.ebpf import EbpfSource
from memdump.machine.kcore import KcoreSource
from tests.lab.inside import libc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.machine.source import Source

PAGE = 4096
_EMPTY = bytes(PAGE)
_EMPTY_SUM = zlib.crc32(_EMPTY)
_MS_BIND = 4096  # include/uapi/linux/mount.h
_SYS_MEMFD_SECRET = 447  # arch/x86/entry/syscalls/syscall_64.tbl


class Reader:
    """One source, its buffer, and how long its reads took."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.buffer = source.buffer(pieces.BLOCK)
        self.seconds = 0.0
        self.unreadable = 0

    def read(self, address: int, size: int) -> bytes:
        start = time.monotonic()
        lost = pieces.read_block(self.source, address, self.buffer[:size], PAGE)
        self.seconds += time.monotonic() - start
        self.unreadable += sum(found.size for found in lost) // PAGE
        return bytes(self.buffer[:size])


def main(folder: str) -> None:
    with contextlib.closing(KcoreSource()) as kcore, contextlib.closing(EbpfSource()) as ebpf:
        report: dict[str, Any] = {
            "compared": compare(Reader(kcore), Reader(ebpf), Path(folder, "ebpf.crc")),
            "direct_map": kcore.direct_map,
            "evidence": ebpf.evidence,
            "vmcoreinfo": [kcore.vmcoreinfo, ebpf.vmcoreinfo],
            "secret": _secret(kcore, ebpf),
        }
    report["without_kallsyms"] = _evidence(direct_map.Places(kallsyms=os.devnull))
    report["by_banner_alone"] = _evidence(direct_map.Places(pagemap=os.devnull))
    with _hidden_addresses():
        report["kptr_restrict"] = _evidence(direct_map.HERE)
    report["restricted"] = dict(sources.survey())
    with masked_kcore():
        chosen = sources.open_source("auto")
        report["masked"] = {"chosen": chosen.source.name, "refused": dict(chosen.refused)}
        chosen.source.close()
    Path(folder, "sources.json").write_text(json.dumps(report))


def compare(kcore: Reader, other: Reader, digests: Path) -> dict[str, Any]:
    """Read all memory through both, and leave the CRC-32 of each page as the other one read it."""
    same = different = 0
    sums = array.array("I")
    for turn, block in enumerate(pieces.blocks(kcore.source.ranges())):
        # Who comes second finds the memory in the processor's cache.
        order = (kcore, other) if turn % 2 else (other, kcore)
        read = {reader: reader.read(block.start, block.size) for reader in order}
        ours, theirs = read[other], read[kcore]
        pages = [slice(at, at + PAGE) for at in range(0, block.size, PAGE)]
        sums.extend(map(_sum, (ours[page] for page in pages)))
        alike = len(pages) if ours == theirs else sum(ours[page] == theirs[page] for page in pages)
        same += alike
        different += len(pages) - alike
    digests.write_bytes(sums.tobytes())
    # Else the next one may find its own buffers as they are in the end, for they hold the last block again.
    for reader in (kcore, other):
        reader.buffer[:] = bytes(len(reader.buffer))
    return {
        "same": same,
        "different": different,
        "seconds": {reader.source.name: reader.seconds for reader in (kcore, other)},
        "unreadable": {reader.source.name: reader.unreadable for reader in (kcore, other)},
    }


def _sum(page: bytes) -> int:
    """Give the CRC-32; most pages are empty, and emulated machines take long over it."""
    return _EMPTY_SUM if page == _EMPTY else zlib.crc32(page)


def _evidence(places: direct_map.Places) -> str:
    try:
        with contextlib.closing(EbpfSource(places)) as source:
            return source.evidence or ""
    except MemdumpError as error:
        return str(error)


def _secret(kcore: Source, ebpf: Source) -> dict[str, Any] | None:
    """Read 16 pages of which some are in no direct map; None where the kernel has none such (before 6.5)."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    file = ctypes.CDLL(None).syscall(_SYS_MEMFD_SECRET, 0)
    if file < 0:
        return None
    os.ftruncate(file, 2 * PAGE)
    secret = mmap.mmap(file, 2 * PAGE)
    secret[:] = b"secret.." * (2 * PAGE // 8)
    pages = [_physical(secret, at) for at in (0, PAGE)]
    block = min(pages) // (16 * PAGE) * (16 * PAGE)
    found = {}
    for source in (kcore, ebpf):
        buffer = memoryview(bytearray(16 * PAGE))
        lost = pieces.read_block(source, block, buffer, PAGE)
        found[source.name] = {"lost": [page.start for page in lost], "leaked": b"secret.." in bytes(buffer)}
    return {"pages": [page for page in sorted(pages) if page < block + 16 * PAGE], "found": found}


def _physical(memory: mmap.mmap, offset: int) -> int:
    """Look the address of a page up in pagemap (kernel, ``Documentation/admin-guide/mm/pagemap.rst``)."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + offset
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        pagemap.seek(address // PAGE * 8)
        return (int.from_bytes(pagemap.read(8), "little") & (1 << 55) - 1) * PAGE


@contextlib.contextmanager
def _hidden_addresses() -> Iterator[None]:
    setting = Path("/proc/sys/kernel/kptr_restrict")
    before = setting.read_text()
    setting.write_text("2")
    try:
        yield
    finally:
        setting.write_text(before)


@contextlib.contextmanager
def masked_kcore() -> Iterator[None]:
    """Mask ``/proc/kcore`` as container engines do, for this process only."""
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount("none", "/", "", 1 << 14 | 1 << 18)  # MS_REC and MS_PRIVATE
    libc.mount(os.devnull, "/proc/kcore", "", _MS_BIND)
    yield


if __name__ == "__main__":
    main(sys.argv[1])
