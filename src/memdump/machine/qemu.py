"""The memory of a guest, from the host that runs it under QEMU, with KVM or without.

QEMU's monitor says which guest-physical addresses are memory, and where in QEMU's own address space they
stand; there the bytes are read, through ``/proc/PID/mem``, without a copy by QEMU and without its help.
"""

import bisect
import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import time
from typing import List, NamedTuple, Optional, Sequence

from memdump.errors import MemdumpError, NotADump, NotPermitted
from memdump.machine import host
from memdump.machine.host import Host
from memdump.machine.qmp import Monitor
from memdump.machine.source import Range, Source

PAGE = 4096

_VIEW = re.compile(r"^FlatView #\d+\n((?: .*\n?)*)", re.MULTILINE)
_SYSTEM = re.compile(r'^ AS "memory"', re.MULTILINE)
_MEMORY = re.compile(r"^  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (?:ram|rom)\): (\S+)", re.MULTILINE)
_PLACE = re.compile(r" is 0x([0-9a-f]+)")
_GUARD_PATIENCE = 5.0
"""Seconds that a guard is waited for; one that gets no answer goes on by itself."""
_GUARD = """
import contextlib, json, socket, sys
with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
    score.write("0")
if sys.stdin.buffer.read() != b"running":
    link = socket.socket(socket.AF_UNIX)
    link.connect(sys.argv[1])
    stream = link.makefile("rwb")
    stream.readline()
    for command in "qmp_capabilities", "cont":
        stream.write(json.dumps({"execute": command}).encode() + b"\\n")
        stream.flush()
        while not {"return", "error"} & json.loads(stream.readline()).keys():
            pass
"""
_NOT_FOR_THE_GUARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Who ends a whole service, or all that runs in a terminal, would leave nobody to let the guest run on."""


class Block(NamedTuple):
    """A run of the guest's memory and where it stands in QEMU's address space."""

    start: int
    size: int
    place: int


class QemuSource(Source):
    """Reads a guest's memory; it stands still meanwhile, unless ``live``."""

    name = "qemu"
    page_size = PAGE

    def __init__(self, path: str, live: bool = False) -> None:
        """Connect to the guest's monitor.

        Raises `UsageError` where it is none, `NotPermitted` where QEMU's memory may not be read.
        """
        self._monitor = Monitor(path)
        self._memory = -1
        self._guard: Optional[subprocess.Popen[bytes]] = None
        self._paused_at = 0.0
        try:
            self.pauses_machine = not live and bool(self._monitor.ask("query-status").get("running"))
            self._process = self._monitor.process()
            self._blocks = self._locate()
            self._memory = _open_memory(self._process)
            self._try(self._blocks[0])
        except BaseException:
            self.close()
            raise
        self._starts = [block.start for block in self._blocks]
        self.evidence = f"QEMU process {self._process}; times are the host's"

    def ranges(self) -> Sequence[Range]:
        """Give all that QEMU gives the guest as memory: RAM, and what its firmware and screen stand in."""
        return [Range(block.start, block.size) for block in self._blocks]

    def ranges_now(self) -> Sequence[Range]:
        """Ask QEMU anew."""
        try:
            return [Range(block.start, block.size) for block in self._locate()]
        except MemdumpError:
            return self.ranges()

    def offline(self) -> Sequence[Range]:
        """Give none: what of its memory a guest uses only its kernel knows."""
        return []

    def read_into(self, address: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from guest-physical ``address``; raises ``OSError`` where that is not memory."""
        block = self._blocks[max(bisect.bisect_right(self._starts, address) - 1, 0)]
        inside = address - block.start
        if inside < 0 or inside + len(buffer) > block.size:
            raise OSError(errno.EFAULT, f"the guest has no memory at {address:#x}")
        place = block.place + inside
        while buffer:
            taken = os.preadv(self._memory, [buffer], place)
            if not taken:
                raise MemdumpError(f"{self._monitor.path}: QEMU ended while its guest's memory was read")
            buffer = buffer[taken:]
            place += taken

    def begin(self) -> None:
        """Stop the guest, unless it is to run on; whatever becomes of this process, it will run again."""
        if not self.pauses_machine:
            return
        self._guard = _guard(self._monitor.path)
        self._paused_at = time.monotonic()
        self._monitor.ask("stop")

    def end(self) -> List[float]:
        """Let the guest run on, and give the seconds for which it stood still; never raises.

        Where QEMU does not answer any more, that is known from what was read, and what was taken counts.
        """
        if self._guard is None:
            return []
        guard, self._guard = self._guard, None
        try:
            self._monitor.ask("cont")
            word = b"running"
        except MemdumpError:
            self._monitor.close()  # it serves one at a time: the guard has its turn now
            word = b""
        paused = time.monotonic() - self._paused_at
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.communicate(word, timeout=_GUARD_PATIENCE)
        return [paused]

    def host(self) -> Host:
        """Tell what QEMU knows of the guest: its name and its architecture."""
        unknown = "unknown"
        return Host(
            hostname=host.printable(str(self._monitor.ask("query-name").get("name") or "guest")),
            kernel_release=unknown,
            kernel_version=unknown,
            machine=str(self._monitor.ask("query-target").get("arch") or unknown),
            boot_id=None,
            page_size=PAGE,
            command_line=None,
        )

    def broken(self) -> int:
        """Give none: only the guest's kernel counts them."""
        return 0

    def page_flags(self, address: int, size: int) -> bytes:  # noqa: ARG002
        """Refuse: what its pages are is known to the guest's kernel only."""
        raise OSError(errno.ENOSYS, "a guest's pages are known to its own kernel only")

    def close(self) -> None:
        """Hang up; a guest that is still paused then runs on."""
        self.end()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
        self._monitor.close()

    def _locate(self) -> List[Block]:
        blocks: List[Block] = []
        for start, size in flat_view(self._monitor.ask_human("info mtree -f")):
            told = _PLACE.search(self._monitor.ask_human(f"gpa2hva {start:#x}"))
            if not told:
                continue
            place = int(told[1], 16)
            last = blocks[-1] if blocks else Block(0, 0, 0)
            if last.size and (last.start + last.size, last.place + last.size) == (start, place):
                blocks[-1] = last._replace(size=last.size + size)
            else:
                blocks.append(Block(start, size, place))
        if not blocks:
            raise NotADump(f"{self._monitor.path}: QEMU does not tell where its guest's memory is")
        return blocks

    def _try(self, block: Block) -> None:
        try:
            os.pread(self._memory, 1, block.place)
        except OSError:
            raise NotPermitted(
                f"{self._monitor.path}: process {self._process} listens there but does not have the guest's"
                " memory: it is not QEMU itself (libvirt keeps the monitor for itself; there take"
                " 'virsh dump --memory-only', whose file is an image)"
            ) from None


def flat_view(text: str) -> List[Range]:
    """Read what ``info mtree -f`` says of the memory that processors see; whole pages, ascending, disjoint.

    What a device gives from its own registers is none; neither is what is not backed at all.
    """
    for view in _VIEW.findall(text.replace("\r", "")):
        if _SYSTEM.search(view):
            found: List[Range] = []
            for first, last, _ in _MEMORY.findall(view):
                start, end = -(-int(first, 16) // PAGE) * PAGE, (int(last, 16) + 1) // PAGE * PAGE
                if start < end and (not found or found[-1].end <= start):
                    found.append(Range(start, end - start))
            return found
    return []


def _guard(path: str) -> "subprocess.Popen[bytes]":
    """Start what lets the guest run on when this process has ended without a word."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_THE_GUARD)  # a new process has it from us
    try:
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", _GUARD, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _open_memory(process: int) -> int:
    try:
        return os.open(f"/proc/{process}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotPermitted(
            f"the memory of QEMU (process {process}) may not be read: {error.strerror};"
            " run as root (CAP_SYS_PTRACE) on the host, outside of containers"
        ) from None
