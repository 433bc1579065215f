"""A program to be taken in a guest: it counts, keeps a pattern in its memory, and is what its words make it.

``living.py FOLDER WORD...`` leaves ``count`` and ``told`` in the folder: a number of eight bytes that grows
for as long as all is well, and, when all is set up, a JSON object of addresses by name.
``living.py look FOLDER PID`` prints what became of such a program, as JSON.  Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import struct
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = 4096
SIZE = 1 << 19
"""Bytes of the pattern: each eight bytes are their own offset."""
MEMBERS = 3
WATCH = struct.Struct(f"<{2 + MEMBERS}Q")
PROVIDED = 1 << 20
_PATIENCE = 20
_CODE = ctypes.CDLL(None, use_errno=True)
_KILL = 0x80000000  # include/uapi/linux/seccomp.h: SECCOMP_RET_KILL_PROCESS
_ALLOW = 0x7FFF0000
_CALLS = (56, 57, 58, 435)  # clone, fork, vfork, clone3; arch/x86/entry/syscalls/syscall_64.tbl
_USERFAULTFD = 323
_UFFDIO_API, _UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00  # include/uapi/linux/userfaultfd.h


class Program:
    """The program; each public method is what a word makes it."""

    def __init__(self, folder: Path) -> None:
        self.told: dict[str, int] = {}
        self._kept: list[object] = []
        self._each_time: list[Callable[[], None]] = []
        self._pause = 0.02
        file = os.open(folder / "count", os.O_RDWR | os.O_CREAT, 0o666)
        os.ftruncate(file, PAGE)
        self._count = mmap.mmap(file, PAGE)
        self._pattern = self._memory("pattern", SIZE)
        self._pattern[:] = struct.pack(f"<{SIZE // 8}Q", *range(0, SIZE, 8))

    def _memory(self, name: str, size: int) -> mmap.mmap:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.told[name] = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return memory

    def user(self, number: str) -> None:
        """Go on as another user, for good."""
        os.setgid(int(number))
        os.setuid(int(number))

    def nproc(self, number: str) -> None:
        """Be allowed that many processes of the user."""
        resource.setrlimit(resource.RLIMIT_NPROC, (int(number), int(number)))

    def reserve(self, size: str) -> None:
        """Have memory that is never used, of that many MiB."""
        self._kept.append(self._memory("reserved", int(size) << 20))

    def fill(self, size: str) -> None:
        """Have memory that is used, of that many MiB."""
        memory = self._memory("filled", int(size) << 20)
        for at in range(0, len(memory), PAGE):
            memory[at] = 1
        self._kept.append(memory)

    def rest(self, size: str) -> None:
        """Have memory that is written to once, of that many MiB: each page begins with its own offset."""
        memory = self._memory("rested", int(size) << 20)
        for at in range(0, len(memory), PAGE):
            struct.pack_into("<Q", memory, at, at)
        self._kept.append(memory)

    def rewrite(self, size: str) -> None:
        """Have memory all of which is written to again and again, of that many MiB."""
        self.fill(size)
        memory = self._kept[-1]
        assert isinstance(memory, mmap.mmap)
        at = 0

        def write() -> None:
            nonlocal at
            for _ in range(1024):
                memory[at] = (memory[at] + 1) % 256
                at = (at + PAGE) % len(memory)

        self._each_time.append(write)

    def filtered(self) -> None:
        """Be killed for making a process."""
        code = [(0x20, 0, 0, 0)]  # load the call's number; linux/bpf_common.h
        code += [(0x15, len(_CALLS) - at, 0, call) for at, call in enumerate(_CALLS)]
        code += [(0x06, 0, 0, _ALLOW), (0x06, 0, 0, _KILL)]
        steps = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in code))
        program = struct.pack("=H6xQ", len(code), ctypes.addressof(steps))
        assert not _CODE.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        assert not _CODE.prctl(22, 2, program, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER

    def thread_filtered(self) -> None:
        """Have one sleeping thread that is killed for making a process, and another that never calls."""
        done = threading.Event()

        def sleep() -> None:
            self.filtered()
            done.set()
            time.sleep(1e6)

        threading.Thread(target=sleep, daemon=True).start()
        done.wait()
        self._pause = 0

    def provided(self) -> None:
        """Have memory of which the second half is provided by nobody, when it is touched (userfaultfd)."""
        memory = self._memory("provided", PROVIDED)
        memory[: PROVIDED // 2] = b"here" * (PROVIDED // 8)
        file = _CODE.syscall(_USERFAULTFD, os.O_CLOEXEC)
        assert file >= 0
        for request, argument in (
            (_UFFDIO_API, struct.pack("=QQQ", 0xAA, 0, 0)),
            (_UFFDIO_REGISTER, struct.pack("=QQQQ", self.told["provided"], PROVIDED, 1, 0)),
        ):
            assert not _CODE.ioctl(file, ctypes.c_ulong(request), ctypes.create_string_buffer(argument))
        self._kept.append(memory)

    def watch(self) -> None:
        """Be one of several processes that count, and keep how far they have seen the others count.

        In memory of its own each has `WATCH`: its place, its count, and what it saw of all.  What is seen was
        stored there before, so at one instant nobody has seen more than there is.
        """
        memory = self._memory("watch", PAGE)
        shown = mmap.mmap(-1, PAGE)
        place = 0
        for number in range(1, MEMBERS):
            if not os.fork():
                place = number
                break
        count = 0

        def step() -> None:
            nonlocal count
            count += 1
            struct.pack_into("<QQ", memory, 0, place, count)
            struct.pack_into("<Q", shown, 8 * place, count)
            memory[16 : WATCH.size] = shown[: 8 * MEMBERS]

        self._each_time.append(step)
        self._pause = 0.005

    def zombie(self) -> None:
        """Have a child that has ended and is not waited for."""
        if not os.fork():
            os._exit(0)

    def run(self) -> None:
        """Count for as long as the pattern is what it was."""
        count = 0
        while True:
            at = count * PAGE % SIZE
            assert struct.unpack_from("<Q", self._pattern, at) == (at,)
            for step in self._each_time:
                step()
            count += 1
            struct.pack_into("<Q", self._count, 0, count)
            if self._pause:
                time.sleep(self._pause)


def look(folder: Path, pid: int) -> dict[str, object]:
    """Wait until the count has grown, and tell how the program is."""
    counted = folder / "count"
    before = counted.read_bytes()[:8]
    deadline = time.monotonic() + _PATIENCE
    while (counts := counted.read_bytes()[:8] != before) is False and time.monotonic() < deadline:
        time.sleep(0.01)
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir())
    return {
        "counts": counts,
        "tracers": [_status(task, "TracerPid") for task in tasks],
        "states": [_status(task, "State")[0] for task in tasks],
        "children": " ".join((task / "children").read_text() for task in tasks).split(),
    }


def _status(task: Path, key: str) -> str:
    lines = (task / "status").read_text().splitlines()
    return next(line.split(":\t")[1] for line in lines if line.startswith(f"{key}:"))


def main(first: str, second: str, *words: str) -> None:
    """Be the program, or look at one."""
    if first == "look":
        print(json.dumps(look(Path(second), int(words[0]))))
        return
    folder = Path(first)
    program = Program(folder)
    for word in (second, *words):
        name, _, value = word.partition("=")
        if name != "plain":
            getattr(program, name)(*filter(None, [value]))
    new = folder / f"told.{os.getpid()}"
    new.write_text(json.dumps(program.told))
    new.replace(folder / "told")
    program.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
