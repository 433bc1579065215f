"""The guests' disks: a small Debian made of this machine's own packages, and one to carry things in and out.

A guest could run on the host's root through 9p, but each look at a file is then a message to QEMU, which
makes a guest under emulation many times slower than one with a disk and a page cache.  Neither root nor a
mount is needed: mkfs.ext4 fills a file system from a folder and debugfs reads it back.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

from tests.lab import cache

PACKAGES = [
    "bash",
    "coreutils",
    "util-linux",
    "util-linux-extra",
    "mount",
    "login",
    "python3",
    "python3-minimal",
    "iproute2",
    "kmod",
    "e2fsprogs",
    "procps",
    "grep",
    "sed",
    "findutils",
    "hostname",
    "netbase",
    "base-files",
    "libc-bin",
]
"""What the guest has; what these depend on comes with them."""

LEFT_OUT = {"debconf", "dpkg", "tar", "perl-base", "systemd", "gcc-12-base"}
USELESS = re.compile(
    r"/usr/share/(doc|man|locale|info|lintian|bash-completion|bug|zoneinfo|perl5)/|.*/gconv/"
)
FOLDERS = [
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib64",
    "etc",
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
    "var/tmp",
    "var/log",
    "root",
    "mnt/data",
    "srv",
    "home",
    "opt",
    "lab",
    "small",
]
USERS = {
    "root": (0, "/root", "/bin/bash"),
    "daemon": (1, "/usr/sbin", "/usr/sbin/nologin"),
    "www-data": (33, "/var/www", "/usr/sbin/nologin"),
    "analyst": (1000, "/home/analyst", "/bin/bash"),
    "nobody": (65534, "/nonexistent", "/usr/sbin/nologin"),
}
PYTHON = "/usr/bin/python3"


def root() -> Path:
    """The disk with the guests' root file system, made when it is not yet in the cache."""
    versions = _dpkg_query("-W", "-f", "${Package} ${Version} ${db:Status-Status}\n")
    key = hashlib.sha256((versions + Path(__file__).read_text()).encode()).hexdigest()[:16]
    disk = cache.folder() / "root" / f"{key}.ext4"
    with cache.locked(disk):
        if not disk.exists():
            for old in disk.parent.glob("*.ext4"):
                old.unlink()
            tree = disk.with_suffix(".tree")
            shutil.rmtree(tree, ignore_errors=True)
            _fill_root(tree)
            make(disk, 320 << 20, tree)
            shutil.rmtree(tree)
    return disk


def make(disk: Path, size: int, tree: Path, *options: str) -> None:
    """Make a file system of ``size`` bytes with what is in the folder ``tree``."""
    part = disk.with_suffix(".part")
    part.unlink(missing_ok=True)
    mkfs = cache.tool("mkfs.ext4", "e2fsprogs")
    command = [mkfs, "-q", "-E", "root_owner=0:0", *options, "-d", str(tree), str(part), str(size >> 10)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise cache.NoLab(f"mkfs.ext4 could not make {disk.name}: {done.stderr.strip()}")
    part.rename(disk)


def extract(disk: Path, folder: str, target: Path) -> None:
    """Copy what is in a folder of the disk into the folder ``target``; no trouble with the host's uid."""
    target.mkdir(parents=True, exist_ok=True)
    debugfs = cache.tool("debugfs", "e2fsprogs")
    listing = subprocess.run(
        [debugfs, "-R", f"ls -p {folder}", str(disk)], capture_output=True, text=True, check=True
    )
    for line in listing.stdout.splitlines():
        fields = line.split("/")  # /inode/mode/uid/gid/name/size/
        if len(fields) < 7 or fields[5] in (".", ".."):
            continue
        if fields[2].startswith("04"):
            extract(disk, f"{folder}/{fields[5]}", target / fields[5])
        else:
            request = f'dump "{folder}/{fields[5]}" "{target / fields[5]}"'
            subprocess.run([debugfs, "-R", request, str(disk)], capture_output=True, check=True)


def _fill_root(tree: Path) -> None:
    for folder in FOLDERS:
        (tree / folder).mkdir(parents=True, exist_ok=True)
    for merged in ("bin", "sbin", "lib", "lib64"):
        (tree / merged).symlink_to(f"usr/{merged}")
    listing = _dpkg_query("-L", *_with_dependencies(PACKAGES))
    for line in dict.fromkeys(listing.splitlines()):
        path = Path(line)
        if line.startswith("/") and not USELESS.match(line) and (path.is_symlink() or path.is_file()):
            _copy(path, tree)
            if path.suffix == ".py":
                for compiled in path.parent.glob(f"__pycache__/{path.stem}.cpython-*[0-9].pyc"):
                    _copy(compiled, tree)
    (tree / "usr/bin/sh").unlink(missing_ok=True)
    (tree / "usr/bin/sh").symlink_to("bash")
    _write_accounts(tree / "etc")


def _copy(path: Path, tree: Path) -> None:
    target = tree / path.relative_to("/")
    if target.parent.resolve() == tree.resolve() and path.is_symlink():
        return  # /bin and its like are laid out already
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_symlink() and not target.exists():
        with contextlib.suppress(PermissionError):  # what only root may read, no guest of another user has
            shutil.copy2(path, target, follow_symlinks=False)


def _write_accounts(etc: Path) -> None:
    lines = (f"{name}:x:{uid}:{uid}:{name}:{home}:{shell}\n" for name, (uid, home, shell) in USERS.items())
    (etc / "passwd").write_text("".join(lines))
    (etc / "group").write_text(
        "".join(f"{name}:x:{uid}:\n" for name, (uid, _, _) in USERS.items()) + "tty:x:5:\n"
    )
    for empty in ("fstab", "hosts", "shadow", "sudoers"):
        (etc / empty).touch()
    (etc / "sudoers").chmod(0o440)


def _with_dependencies(packages: list[str]) -> list[str]:
    """The installed packages that these need, themselves included."""
    depends: dict[str, str] = {}
    provider: dict[str, str] = {}
    listing = _dpkg_query(
        "-W",
        "-f",
        "${Package}\t${Provides}\t${Pre-Depends},${Depends}\t${db:Status-Status}\t${Architecture}\n",
    )
    for line in listing.splitlines():
        name, provides, needs, status, architecture = line.split("\t")
        if status == "installed" and architecture in ("amd64", "all"):
            depends[name] = needs
            provider[name] = name
            for virtual in provides.split(","):
                provider.setdefault(virtual.partition("(")[0].strip(), name)
    found: set[str] = set()
    waiting = list(packages)
    while waiting:
        name = provider.get(waiting.pop(), "")
        if name and name not in found and name not in LEFT_OUT:
            found.add(name)
            for group in depends[name].split(","):
                alternatives = (re.split(r"[\s:(]", choice.strip())[0] for choice in group.split("|"))
                waiting.append(next((choice for choice in alternatives if choice in provider), ""))
    return sorted(found)


def _dpkg_query(*arguments: str) -> str:
    command = [cache.tool("dpkg-query", "dpkg"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
