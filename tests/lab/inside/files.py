"""Files and folders with known times, on file systems of every kind that the guest has."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

from tests.lab.inside import libc

TMPFS = "/run/loot"
EXT4 = "/mnt/data"
STRICT = "/run/strict and\\odd"
SEALED = "/run/sealed"
EARLY = 1_000_000_000_123_456_789  # 2001, with nanoseconds
LATE = 5_000_000_000_987_654_321  # 2128: past 32 bits


def mount_all() -> None:
    """A tmpfs, and an ext4 on a loop device over a file of that tmpfs."""
    for folder in (TMPFS, EXT4):
        os.makedirs(folder, exist_ok=True)
    libc.mount("loot", TMPFS, "tmpfs", data="size=64m,mode=0755")
    backing = f"{TMPFS}/disk.ext4"
    with open(backing, "wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-L", "evidence", "-I", "256", backing], check=True)
    subprocess.run(["mount", "-o", "loop,noatime", backing, EXT4], check=True)
    _mount_with_options()


def _mount_with_options() -> None:
    """Options of the file system and of the mount alone, and names that mountinfo must escape."""
    for folder in (STRICT, SEALED):
        os.makedirs(folder)
    libc.mount(
        "odd\tsource", STRICT, "tmpfs", 4 | 8 | 16 | 128 | 2048
    )  # nodev noexec sync dirsync nodiratime
    libc.mount("sealed", SEALED, "tmpfs")
    libc.mount("none", SEALED, "none", 1 | 2 | 32 | 1024 | 4096)  # remount bind: ro nosuid noatime


def write_all() -> list[str]:
    """Make files and folders of every type; the answer names those that are left, and those deleted since."""
    left = []
    for base in (TMPFS, EXT4):
        left += _write(base.encode())
    return [os.fsdecode(path) for path in left]


def _write(base: bytes) -> list[bytes]:
    folder = base + b"/deep/er/still"
    os.makedirs(folder)
    contents = {
        b"/plain.txt": b"plain\n",
        b"/empty": b"",
        b"/two pages and a bit": b"x" * 9000,
        b"/deep/er/still/secret.key": b"k" * 32,
        b"/not-utf8-\xff\xfe": b"bytes",
        b"/escape-\x1b]0;owned\x07": b"escape",
        b"/new\nline": b"line",
        "/日本語".encode(): "内容".encode(),
    }
    for name, content in contents.items():
        with open(base + name, "wb") as file:
            file.write(content)
    os.symlink(b"plain.txt", base + b"/link")
    os.link(base + b"/plain.txt", base + b"/second-name")
    os.mkfifo(base + b"/pipe", 0o640)
    os.mknod(base + b"/null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    with open(base + b"/sparse", "wb") as file:
        file.truncate(1 << 20)
    os.chown(base + b"/empty", 1000, 33)
    os.chmod(base + b"/plain.txt", 0o4755)
    os.utime(base + b"/plain.txt", ns=(EARLY, EARLY + 1))
    os.utime(base + b"/deep/er/still/secret.key", ns=(EARLY, LATE))
    os.utime(base + b"/deep/er", ns=(LATE, EARLY))
    with open(base + b"/two pages and a bit", "rb") as file:
        file.read()
    names = [*contents, b"/link", b"/pipe", b"/null", b"/sparse", b"/deep", b"/deep/er", b"/deep/er/still"]
    return [base + name for name in names]


def delete_some() -> list[dict[str, Any]]:
    """Files that were there and are gone, with what was known of them."""
    gone = []
    for base in (TMPFS, EXT4):
        path = f"{base}/removed.tmp"
        Path(path).write_bytes(b"r" * 4096)
        gone.append({"path": path, **lstat(path)})
        os.unlink(path)
    return gone


def lstat(path: str) -> dict[str, Any]:
    """What lstat(2) says, with times in nanoseconds since the epoch."""
    status = os.lstat(path)
    return {
        "mode": status.st_mode,
        "inode": status.st_ino,
        "device": [os.major(status.st_dev), os.minor(status.st_dev)],
        "rdev": [os.major(status.st_rdev), os.minor(status.st_rdev)],
        "links": status.st_nlink,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "size": status.st_size,
        "atime_ns": status.st_atime_ns,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "target": os.readlink(path) if stat.S_ISLNK(status.st_mode) else None,
    }
