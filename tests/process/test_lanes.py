"""Copying memory to a file in several lanes, which may fail and be stopped one by one."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memdump.errors import MemdumpError
from memdump.machine.output import NO_ROOM, Output
from memdump.machine.pieces import BLOCK
from memdump.machine.source import Range, Source
from memdump.process import lanes
from memdump.process.lanes import Lanes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAGE = 4096
FRONT = b"the front" * 1000
SIZE = 12 * BLOCK + 5 * PAGE


class Fake(Source):
    """Memory that starts at ``BLOCK``, with holes, pages of zeros, and pages that cannot be read."""

    name = "fake"

    def __init__(self) -> None:
        self.content = bytearray(os.urandom(BLOCK // 2) * (SIZE // (BLOCK // 2) + 1))[:SIZE]
        self.content[3 * PAGE : 90 * PAGE] = bytes(87 * PAGE)
        self.unreadable: set[int] = set()
        self.before: Callable[[int], None] = lambda address: None
        """Is called with the address before a block is read, by the lane that reads it."""

    def ranges(self) -> list[Range]:
        return [Range(BLOCK, 3 * BLOCK), Range(4 * BLOCK + 2 * PAGE, SIZE - 3 * BLOCK - 2 * PAGE)]

    def expected(self) -> bytes:
        wanted = bytearray(self.content)
        for page in self.unreadable:
            wanted[page - BLOCK : page - BLOCK + PAGE] = bytes(PAGE)
        return FRONT + b"".join(wanted[one.start - BLOCK : one.end - BLOCK] for one in self.ranges())

    def read_into(self, address: int, buffer: memoryview) -> None:
        self.before(address)
        if any(address <= page < address + len(buffer) for page in self.unreadable):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        buffer[:] = self.content[address - BLOCK :][: len(buffer)]

    def close(self) -> None:
        pass


@pytest.fixture(params=[1, 2, 5])
def count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    number: int = request.param
    monkeypatch.setattr(lanes, "_LANES", number)
    return number


def copied(
    path: Path, memory: Fake, stop: Callable[[], str | None] = lambda: None
) -> tuple[str | None, Lanes, bytes]:
    """Copy it: why it ended early, the lanes, and what is in the file."""
    seen: list[int] = []
    with Output(path) as output:
        output.write(FRONT)
        found = Lanes(memory, memory.ranges(), output)
        reason = found.copy(seen.append, stop)
        assert output.position == os.stat(output.part).st_size  # noqa: PTH116
        output.commit()
    assert seen == sorted(seen)
    assert threading.active_count() == 1
    return reason, found, path.read_bytes()


def test_all_of_it_is_in_its_place(tmp_path: Path, count: int) -> None:
    memory = Fake()
    memory.unreadable = {BLOCK + 100 * PAGE, 2 * BLOCK - PAGE, 2 * BLOCK, 5 * BLOCK}
    reason, found, content = copied(tmp_path / "core", memory)
    assert (reason, found.missing) == (None, None)
    assert content == memory.expected()
    assert found.unreadable == [
        Range(BLOCK + 100 * PAGE, PAGE),
        Range(2 * BLOCK - PAGE, 2 * PAGE),
        Range(5 * BLOCK, PAGE),
    ]
    blocks = (tmp_path / "core").stat().st_blocks * 512
    assert blocks <= len(content) - 80 * PAGE  # the zeros take no room


def test_zeros_at_the_end_are_there(tmp_path: Path, count: int) -> None:
    memory = Fake()
    memory.content[-3 * PAGE :] = bytes(3 * PAGE)
    assert copied(tmp_path / "core", memory)[2] == memory.expected()


@pytest.mark.parametrize("after", [1, 2, 3])
def test_it_ends_early_when_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, after: int
) -> None:
    memory, calls, told = Fake(), [], threading.Event()
    end_others = Lanes._end_others

    def stop() -> str | None:
        calls.append(0)
        return None if len(calls) < after else "enough"

    def end(self: Lanes, others: Sequence[threading.Thread]) -> None:
        soon = threading.Timer(0.05, told.set)
        soon.start()
        end_others(self, others)
        soon.join()

    def wait(address: int) -> None:
        assert threading.current_thread() is threading.main_thread() or told.wait(20)

    memory.before = wait  # the others are in the middle of a block then
    monkeypatch.setattr(Lanes, "_end_others", end)
    reason, found, content = copied(tmp_path / "core", memory, stop)
    assert reason == "enough"
    assert found.missing is not None
    assert memory.expected().startswith(content)
    assert len(content) == len(FRONT) + sum(
        min(one.end, found.missing.start) - one.start
        for one in memory.ranges()
        if one.start < found.missing.start
    )


@pytest.mark.parametrize("block", range(1, 7))
def test_a_block_that_fails_is_where_the_file_ends(tmp_path: Path, count: int, block: int) -> None:
    """What is behind it was copied, perhaps; it would stand in the wrong place of a shorter file."""
    memory, behind = Fake(), threading.Event()
    memory.unreadable = {(block + 1) * BLOCK + 9 * PAGE}

    def fail(address: int) -> None:
        if address // BLOCK == block + 1:
            behind.set()
        if address // BLOCK == block:
            assert count == 1 or behind.wait(20)
            raise MemdumpError("the process is gone")

    memory.before = fail
    reason, found, content = copied(tmp_path / "core", memory)
    assert reason == "the process is gone"
    assert found.missing is not None
    assert found.missing.start // BLOCK == block
    assert memory.expected().startswith(content)
    assert len(content) == len(FRONT) + (block - 1) * BLOCK
    assert found.unreadable == []


def test_a_fault_of_ours_is_not_hidden(tmp_path: Path, count: int) -> None:
    memory = Fake()

    def fail(address: int) -> None:
        raise ZeroDivisionError

    memory.before = fail
    with pytest.raises(ZeroDivisionError):
        copied(tmp_path / "core", memory)
    assert list(tmp_path.iterdir()) == []


class Spare:
    """Room for so many bytes more."""

    def __init__(self, disk: list[int], size: int) -> None:
        self.disk, self.size = disk, size

    def release(self) -> bool:
        self.disk[0] += self.size
        had, self.size = self.size, 0
        return bool(had)


@pytest.mark.parametrize("spare", [0, 20 * BLOCK])
def test_a_full_disk_costs_the_spare_room_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, spare: int
) -> None:
    """All lanes find the disk full at the same time: none of them fails while there is room."""
    disk, used = [3 * BLOCK], [0]
    write, lock = os.pwrite, threading.Lock()
    found_full, together = [0], threading.Event()

    def pwrite(fd: int, data: memoryview, at: int) -> int:
        with lock:
            room = min(disk[0] - used[0], len(data))
            used[0] += room
            found_full[0] += not room
            if found_full[0] >= min(count, 2):
                together.set()
        if not room:
            if spare:
                assert together.wait(20)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[:room], at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    memory = Fake()
    with Output(tmp_path / "core", keep_partial=True) as output:
        output.spare = Spare(disk, spare)  # type: ignore[assignment]
        output.write(FRONT)
        found = Lanes(memory, memory.ranges(), output)
        reason = found.copy(lambda at: None, lambda: None)
        content = Path(output.part).read_bytes()
    assert memory.expected().startswith(content)
    assert output.trouble == (NO_ROOM if spare else None)
    if spare:
        assert (reason, content) == (None, memory.expected())
    else:
        assert reason is not None
        assert reason == f"{output.path}: {NO_ROOM}; what was written stands in {output.part}"
