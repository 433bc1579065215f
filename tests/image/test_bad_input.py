"""Whatever is given in place of a dump: one line, and never anything but a `MemdumpError`."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from memdump.errors import NotADump, NotPermitted
from memdump.image import open_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memdump.image.base import Image


def refusal(path: Path | str) -> str:
    with pytest.raises(NotADump) as caught:
        open_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_a_missing_file(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "nothing")


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    assert "is empty" in refusal(path)


def test_a_folder(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert "is a pipe" in refusal(path)


def test_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert "is a pipe" in refusal(tmp_path / "socket")


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
def test_a_device(path: str) -> None:
    assert "is a device" in refusal(path)


def test_a_terminal() -> None:
    leader, follower = pty.openpty()
    try:
        assert "is a device" in refusal(os.ttyname(follower))
    finally:
        os.close(leader)
        os.close(follower)


def test_a_file_of_the_kernel() -> None:
    assert "is empty" in refusal("/proc/self/status")


def test_a_name_with_a_zero_byte() -> None:
    assert "cannot be opened" in refusal("a\0b")


def test_a_loop_of_links(tmp_path: Path) -> None:
    path = tmp_path / "loop"
    path.symlink_to(path)
    assert "cannot be opened" in refusal(path)


@pytest.fixture
def nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_file_of_another_user(nobody: None) -> None:
    with pytest.raises(NotPermitted, match="may not be read by this user") as caught:
        open_image("/etc/shadow")
    assert caught.value.exit_status == 4


def test_a_folder_of_another_user(tmp_path: Path, nobody: None) -> None:
    with pytest.raises(NotPermitted, match="may not be read by this user"):
        open_image(tmp_path / "image")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"\x1f\x8b\x08\x00", "packed with gzip; unpack it first with `gzip -d`"),
        (b"\x28\xb5\x2f\xfd", "is a zstd file that cannot be read: truncated or damaged"),
        (b"\xfd7zXZ\x00", "`xz -d`"),
        (b"BZh9", "`bzip2 -d`"),
        (b"PK\x03\x04", "`unzip`"),
        (b"age-encryption.org/v1\n", "age header is damaged"),
        (b"-----BEGIN AGE ENCRYPTED FILE-----\n", "armour"),
        (b"PAGEDU64", "a crash dump of Windows"),
        (b"QFI\xfb", "virsh dump --memory-only"),
        (b"LibvirtQemudSave", "virsh dump --memory-only"),
        (b"DISKDUMP", "a diskdump"),
        (b"Nov 23 14:03:07 host kernel: text, text and nothing but text; line after line\n", "a text file"),
    ],
)
def test_what_is_known_to_be_something_else(
    opened: Callable[[bytes], Image], start: bytes, message: str
) -> None:
    with pytest.raises(NotADump) as caught:
        opened(start.ljust(1 << 20, b"\0"))
    assert message in str(caught.value)


def test_random_bytes_of_an_odd_size(opened: Callable[[bytes], Image]) -> None:
    with pytest.raises(NotADump, match="in no format that memdump knows"):
        opened(b"\xc3" * ((1 << 20) + 1))


def test_a_name_tells_nothing(tmp_path: Path) -> None:
    path = tmp_path / "memory.lime"
    path.write_bytes(b"\xc3" * 5000)
    assert "in no format that memdump knows" in refusal(path)


def test_opening_loads_no_library_that_the_format_does_not_need(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(bytes(1 << 20))
    program = f"""
import sys
from memdump.image import open_image
with open_image({str(path)!r}) as image:
    image.read(0, 8)
heavy = {{"numpy", "zstandard", "cramjam", "lzallright", "drgn", "rich", "duckdb"}}
print(sorted(heavy & {{name.partition(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
