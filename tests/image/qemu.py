"""A guest of 64 MiB that runs nothing but a boot sector: QEMU's own dumps of it, and its bytes as they are.

It boots in a second, since there is no kernel.  The boot sector switches to long mode, in which QEMU writes
the dumps of an x86-64 machine; without it, those of a 32-bit one.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

SIZE = 64 << 20
ROM = (0xFFFC0000, 0x40000)
PATTERN_AT = 0x0020_0000

# Page tables at 0x10000 with one page of 1 GiB, PAE, EFER.LME, paging, a far jump to 64-bit code: hlt; jmp.
LONG_MODE = bytes.fromhex(
    "fab800108ec031ff26c705031026c74502010026c7850010830066b80000"
    "01000f22d866b8200000000f22e066b9800000c066b8000100006631d20f"
    "3066b8010000800f22c02e660f0116687c66ea557c00000800f4ebfd0000"
    "00000000000000000000009a20000f00587c00000000"
)
BOOT_SECTOR = LONG_MODE.ljust(510, b"\0") + b"\x55\xaa"


DUMPS: dict[str, dict[str, Any]] = {
    "memory.elf": {"paging": False},
    "memory.kdump": {"paging": False, "format": "kdump-zlib"},
    "paged.elf": {"paging": True},
}


class Monitor:
    """QEMU's machine protocol."""

    def __init__(self, path: Path) -> None:
        deadline = time.monotonic() + 60
        self._socket = socket.socket(socket.AF_UNIX)
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                self._socket.connect(str(path))
                break
            assert time.monotonic() < deadline, "QEMU did not start"
            time.sleep(0.02)
        self._stream = self._socket.makefile("rw")
        self._stream.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while True:
            answer = json.loads(self._stream.readline())
            if "return" in answer or "error" in answer:
                return answer.get("return", answer.get("error"))

    def monitor(self, line: str) -> str:
        return str(self.ask("human-monitor-command", **{"command-line": line}))


def pattern() -> bytes:
    """Pages of every kind of content: zero, text, random, and in an order that compresses badly."""
    chance = random.Random(5)
    kinds = [
        bytes(4096),
        b"a line of text, again and again\n" * 128,
        chance.randbytes(4096),
        bytes(range(256)) * 16,
        chance.randbytes(64) + bytes(4032),
    ]
    return b"".join(chance.choice(kinds) for _ in range(2048))


def dump(folder: Path, *, long_mode: bool = True) -> None:
    """Leave ``memory.elf``, ``memory.kdump``, ``paged.elf``, and the same bytes in ``ram`` and ``rom``."""
    boot, loaded = folder / "boot", folder / "pattern"
    boot.write_bytes(BOOT_SECTOR)
    loaded.write_bytes(pattern())
    sockets = Path(tempfile.mkdtemp(prefix="memdump-qemu-"))  # a socket's path must be short
    command = [
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        "64",
        "-display",
        "none",
        "-nodefaults",
    ]
    command += ["-qmp", f"unix:{sockets}/monitor,server=on,wait=off"]
    command += ["-device", f"loader,file={loaded},addr={PATTERN_AT:#x},force-raw=on"]
    command += ["-drive", f"file={boot},format=raw,if=floppy,readonly=on"] if long_mode else ["-S"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=folder)
    try:
        machine = Monitor(sockets / "monitor")
        deadline = time.monotonic() + 60
        while long_mode and not {"HLT=1", "CS64"} <= set(machine.monitor("info registers").split()):
            assert time.monotonic() < deadline, "the boot sector did not run"
            time.sleep(0.05)
        machine.ask("stop")
        for name, options in DUMPS.items():
            machine.ask("dump-guest-memory", protocol=f"file:{folder / name}", **options)
        machine.ask("pmemsave", val=0, size=SIZE, filename=str(folder / "ram"))
        machine.ask("pmemsave", val=ROM[0], size=ROM[1], filename=str(folder / "rom"))
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(sockets)
