"""A file that appears only when it is whole."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
from typing import TYPE_CHECKING

import pytest

from memdump.errors import MemdumpError, NotPermitted, UsageError
from memdump.machine.output import Output

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full_at_8192() -> Iterator[None]:
    """Files here cannot grow beyond 8192 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_the_name_appears_with_the_commit(tmp_path: Path) -> None:
    with Output(tmp_path / "image") as out:
        out.write(b"abc")
        assert names(tmp_path) == ["image.part"]
        out.commit()
        assert names(tmp_path) == ["image"]
    assert (tmp_path / "image").read_bytes() == b"abc"


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Output(tmp_path / "image") as out:
            assert stat.S_IMODE((tmp_path / "image.part").stat().st_mode) == 0o600
            out.commit()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "image").stat().st_mode) == 0o600


def test_without_a_commit_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Output(tmp_path / "image") as out:
        out.write(b"abc")
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_what_cannot_be_had_again_is_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Output(tmp_path / "image", keep_partial=True) as out:
        out.write(b"abc")
        raise KeyboardInterrupt
    assert (tmp_path / "image.part").read_bytes() == b"abc"


@pytest.mark.parametrize("taken", ["image", "image.part"])
@pytest.mark.parametrize("how", ["file", "link", "dangling"])
def test_nothing_is_written_over_and_no_link_followed(tmp_path: Path, taken: str, how: str) -> None:
    target = tmp_path / "target"
    if how != "dangling":
        target.write_bytes(b"precious")
    if how == "file":
        target.rename(tmp_path / taken)
        target = tmp_path / taken
    else:
        (tmp_path / taken).symlink_to(target)
    before = names(tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        Output(tmp_path / "image")
    assert names(tmp_path) == before
    assert how == "dangling" or target.read_bytes() == b"precious"


def test_a_file_that_came_up_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="was created by someone else"), Output(tmp_path / "image") as out:
        out.write(b"abc")
        (tmp_path / "image").write_bytes(b"precious")
        out.commit()
    assert names(tmp_path) == ["image"]
    assert (tmp_path / "image").read_bytes() == b"precious"


def refusing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refusing(monkeypatch, number)
    with Output(tmp_path / "image") as out:
        out.write(b"abc")
        out.commit()
    assert names(tmp_path) == ["image"]
    with pytest.raises(UsageError, match="exists already"), Output(tmp_path / "other", True) as out:
        out.write(b"abc")
        (tmp_path / "other").write_bytes(b"precious")
        out.commit()
    assert (tmp_path / "other").read_bytes() == b"precious"
    assert (tmp_path / "other.part").read_bytes() == b"abc"


def test_a_disk_that_fails_to_give_a_name_is_not_taken_for_one_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, errno.EIO)
    with pytest.raises(MemdumpError, match="Input/output error"), Output(tmp_path / "image", True) as out:
        out.write(b"abc")
        out.commit()
    assert names(tmp_path) == ["image.part"]


def test_what_is_skipped_reads_as_zeros(tmp_path: Path) -> None:
    with Output(tmp_path / "image") as out:
        out.skip(1 << 20)
        assert out.write(memoryview(b"abc")) == 3
        out.skip(1 << 20)
        assert out.position == (2 << 20) + 3
        out.commit()
    assert (tmp_path / "image").read_bytes() == bytes(1 << 20) + b"abc" + bytes(1 << 20)
    assert (tmp_path / "image").stat().st_blocks * 512 <= 8192


@pytest.mark.parametrize(("keep", "left"), [(False, []), (True, ["image.part"])])
def test_no_room(tmp_path: Path, full_at_8192: None, keep: bool, left: list[str]) -> None:
    said = "what was written stands in" if keep else "nothing was kept"
    with pytest.raises(MemdumpError, match=said) as caught, Output(tmp_path / "image", keep) as out:
        for _ in range(10):
            out.write(bytes(5000))
    assert "a file of this size after 8192 bytes" in str(caught.value)
    assert names(tmp_path) == left


def test_a_full_disk(tmp_path: Path) -> None:
    said = "no room left on the disk after 0 bytes"
    with pytest.raises(MemdumpError, match=said), Output(tmp_path / "image") as out:
        os.dup2(os.open("/dev/full", os.O_WRONLY), out._fd)
        out.write(b"abc")
    assert names(tmp_path) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        Output(tmp_path / "nowhere" / "image")


def test_a_folder_that_may_not_be_written_to() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    os.seteuid(65534)
    try:
        with pytest.raises(NotPermitted, match="Permission denied"):
            Output("/etc/memdump-test")
    finally:
        os.seteuid(0)
