"""What ``memdump acquire`` itself needs, on a machine of eight cores whose memory cannot be compressed."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

DRIVER = """
import os, struct, sys
import memdump.cli.acquire as command
from memdump.cli import main
from memdump.machine import destination
from memdump.machine.source import Range, Source
from memdump.machine.sources import Chosen

NOISE = os.urandom(2 << 20)
KERNEL, MEMORY = 160 << 20, 8 << 30
SLAB, BUDDY = 1 << 7, 1 << 10

class Noisy(Source):
    name = "noise"
    page_size = 4096

    def ranges(self):
        return [Range(0, MEMORY)]

    def read_into(self, address, buffer):
        buffer[:] = NOISE[: len(buffer)]

    def page_flags(self, address, size):
        return struct.pack("=Q", SLAB if address < KERNEL else BUDDY) * (size // 4096)

    def close(self):
        pass

os.sched_getaffinity = lambda _: set(range(8))
os.cpu_count = lambda: 8
command.sources.open_source = lambda name, options: Chosen(Noisy(), [])
destination._IN_RAM = ()
status = main(["acquire", "--skip", "free", *sys.argv[1:]])
print(open("/proc/self/status").read())
sys.exit(status)
"""
RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
"""The one in the README of age."""


@pytest.mark.parametrize(
    "options", [["--no-encrypt"], ["--compress", "--no-encrypt"], ["--recipient", RECIPIENT]]
)
def test_it_needs_less_than_100_mb(tmp_path: Path, options: list[str]) -> None:
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "noise.lime"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", done.stdout, re.MULTILINE)
    assert int(peak) < 100_000
