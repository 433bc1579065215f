from __future__ import annotations

import os
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from memdump.errors import MemdumpError
from memdump.machine import gentle
from memdump.machine.beside import Beside
from memdump.machine.gentle import Gentle
from memdump.machine.output import Output

if TYPE_CHECKING:
    from pathlib import Path


class Disk:
    def __init__(self, full: bool = False) -> None:
        self.log: list[int] = []
        self.written = 0
        self.full = full

    def write(self, data: bytes | memoryview, /) -> None:
        self.written += len(data)

    def settle(self) -> None:
        if self.full:
            raise MemdumpError("no room left on the disk")
        self.log.append(self.written)


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_a_file_settles_again_and_again() -> None:
    disk = Disk()
    stream = Gentle(disk)
    for _ in range(20):
        stream.write(bytes(gentle.EVERY // 4))
    stream.close()
    assert disk.written == 5 * gentle.EVERY
    assert len(disk.log) == 5
    assert "settle" not in names()


def test_what_fails_beside_is_raised_by_the_next_write_or_the_end() -> None:
    disk = Disk(full=True)
    stream = Gentle(disk)
    stream.write(bytes(gentle.EVERY))
    with pytest.raises(MemdumpError, match="no room"):
        stream.write(bytes(gentle.EVERY))
    stream.close()
    assert disk.written == gentle.EVERY  # who is told that a write failed finds nothing of it in the file
    stream = Gentle(Disk(full=True))
    stream.write(bytes(gentle.EVERY))
    with pytest.raises(MemdumpError, match="no room"):
        stream.close()
    assert "settle" not in names()


def test_a_settled_file_takes_no_page_cache(tmp_path: Path) -> None:
    fincore = shutil.which("fincore")
    if not fincore:
        pytest.skip("fincore (util-linux) is not installed")
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], check=True, capture_output=True, text=True)
    if kind.stdout.strip() not in ("ext2/ext3", "xfs", "btrfs", "overlayfs"):
        pytest.skip(f"whether {kind.stdout.strip()} has a page cache is not known")

    def cached(path: Path) -> int:
        told = subprocess.run(
            [fincore, "-b", "-n", "-o", "RES", path], check=True, capture_output=True, text=True
        )
        return int(told.stdout)

    with Output(tmp_path / "a.lime") as output:
        output.write(os.urandom(4 << 20))
        before = cached(tmp_path / "a.lime.part")
        output.settle()
        after = cached(tmp_path / "a.lime.part")
    assert before == 4 << 20
    assert after == 0


def test_what_is_done_beside_is_waited_for_and_its_error_raised_once() -> None:
    done: list[int] = []
    beside = Beside("test")
    beside.wait()
    beside.start(lambda: done.append(1))
    beside.wait()
    assert done == [1]
    beside.start(lambda: done.remove(7))
    with pytest.raises(ValueError, match="not in list"):
        beside.wait()
    beside.wait()
    beside.close()
    assert "test" not in names()
