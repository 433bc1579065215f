"""Writing past the page cache: what is in the file, and what is not in memory afterwards."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from memdump.errors import MemdumpError
from memdump.machine.buffers import page_aligned
from memdump.machine.direct import LEAST, Direct
from memdump.machine.output import Output

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
BLOCKS = 40


@pytest.fixture
def block() -> memoryview:
    """A block of memory that starts at a page."""
    found = page_aligned(MIB)
    found[:] = os.urandom(MIB)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder on a file system that can be written to directly."""
    with (tmp_path / "probe").open("wb") as file:
        try:
            Direct(file.fileno()).close()
        except OSError as error:
            pytest.skip(f"the file system of {tmp_path} has no direct writes: {error.strerror}")
    return tmp_path


def in_memory(path: Path) -> int:
    """The bytes of a file that the system keeps in memory, as util-linux tells."""
    fincore = shutil.which("fincore")
    if fincore is None:
        pytest.skip("fincore, of util-linux, is not installed")
    done = subprocess.run([fincore, "-nbo", "RES", path], capture_output=True, text=True, check=True)
    return int(done.stdout)


def write_all(path: Path, block: memoryview) -> None:
    """Write blocks, which differ in their first bytes, behind a front of a page."""
    with Output(path) as file:
        file.write(bytes(4096))
        file.write_directly()
        for number in range(BLOCKS):
            block[:8] = number.to_bytes(8, "little")
            file.write(block)
        file.commit()


def is_whole(path: Path, block: memoryview) -> bool:
    content = path.read_bytes()
    rest = bytes(block[8:])
    return len(content) == 4096 + BLOCKS * MIB and all(
        content[at : at + 8] == number.to_bytes(8, "little") and content[at + 8 : at + MIB] == rest
        for number, at in enumerate(range(4096, len(content), MIB))
    )


def test_what_is_written_directly_does_not_stay_in_memory(
    folder: Path, block: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Direct, "is_quicker", lambda self, size, at: True)
    write_all(folder / "direct", block)
    assert in_memory(folder / "direct") < MIB
    monkeypatch.setattr(Direct, "is_quicker", lambda self, size, at: False)
    write_all(folder / "buffered", block)
    assert in_memory(folder / "buffered") > BLOCKS * MIB // 2
    assert is_whole(folder / "direct", block)
    assert is_whole(folder / "buffered", block)


def test_both_ways_in_turns_make_one_file(
    folder: Path, block: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = itertools.cycle([True, False, False])
    monkeypatch.setattr(Direct, "is_quicker", lambda self, size, at: next(turns))
    write_all(folder / "mixed", block)
    assert is_whole(folder / "mixed", block)


def test_memory_that_is_not_aligned_goes_the_other_way(folder: Path) -> None:
    block = page_aligned(2 * MIB)[100 : 100 + MIB]
    block[:] = os.urandom(MIB)
    write_all(folder / "image", block)
    assert is_whole(folder / "image", block)


def test_a_file_system_without_direct_writes(
    tmp_path: Path, block: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, os.strerror(22))
        return opened(path, flags, *rest)

    opened = os.open
    monkeypatch.setattr(os, "open", refuse)
    write_all(tmp_path / "image", block)
    monkeypatch.undo()
    assert is_whole(tmp_path / "image", block)


def test_a_file_system_that_refuses_direct_writes_is_asked_once(
    folder: Path, block: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(way: Direct, data: memoryview, at: int) -> int:
        asked.append(at)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(Direct, "write", refuse)
    write_all(folder / "image", block)
    assert asked == [4096]
    assert is_whole(folder / "image", block)


def test_a_direct_write_that_ends_half_way(folder: Path, block: memoryview) -> None:
    with pytest.raises(MemdumpError, match="limit here does not take a file of this size"):
        _write_with_a_limit(folder / "image", block)
    left = (folder / "image.part").read_bytes()
    assert left[4096 : 4096 + 3 * MIB] == bytes(block) * 3


def _write_with_a_limit(path: Path, block: memoryview) -> None:
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB + MIB // 2 + 100, before[1]))
    try:
        with Output(path, keep_partial=True) as file:
            file.write(bytes(4096))
            file.write_directly()
            for _ in range(BLOCKS):
                file.write(block)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize(("buffered", "direct"), [(1.0, 5.0), (5.0, 1.0)])
def test_the_quicker_way_is_taken_and_the_other_one_tried_again(
    tmp_path: Path, buffered: float, direct: float
) -> None:
    with (tmp_path / "file").open("wb") as file:
        try:
            way = Direct(file.fileno())
        except OSError as error:
            pytest.skip(f"no direct writes: {error.strerror}")
        taken = []
        for _ in range(200):
            taken.append(way.is_quicker(MIB, 4096))
            way.tell(direct=taken[-1], size=MIB, seconds=direct if taken[-1] else buffered)
        assert {True, False} == set(taken)
        assert (sum(taken) > 150) == (direct < buffered)
        assert (sum(taken) < 50) == (direct > buffered)
        # A disk that has become slow, or quick, is noticed.
        for _ in range(400):
            taken.append(way.is_quicker(MIB, 4096))
            way.tell(direct=taken[-1], size=MIB, seconds=buffered if taken[-1] else direct)
        assert (sum(taken[-100:]) > 50) == (direct > buffered)
        way.close()


@pytest.mark.parametrize(("size", "at"), [(LEAST - 4096, 0), (MIB + 512, 0), (MIB, 512)])
def test_small_and_odd_writes_are_buffered(tmp_path: Path, size: int, at: int) -> None:
    with (tmp_path / "file").open("wb") as file:
        try:
            way = Direct(file.fileno())
        except OSError as error:
            pytest.skip(f"no direct writes: {error.strerror}")
        assert not any(way.is_quicker(size, at) for _ in range(100))
        way.close()
