"""Where the lab keeps what took long to get, and how two runs keep out of each other's way."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class NoLab(RuntimeError):
    """The lab cannot be had on this machine; the message says what is missing and how to get it."""


def folder() -> Path:
    """``$MEMDUMP_LAB_CACHE``, else ``memdump-lab`` in the user's cache folder: never in the repository."""
    chosen = os.environ.get("MEMDUMP_LAB_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memdump-lab"


def say(make: Callable[[], Sequence[object]]) -> int:
    """Make something by hand, say what it gives, or why there is no lab for it; gives the exit status."""
    try:
        print(*make())
    except (NoLab, RuntimeError) as error:
        print(f"the lab: {error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock that belongs to ``target``, so that it is made once however many processes want it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which becomes ``target`` only if filling it did not fail."""
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    if target.exists():
        shutil.rmtree(target)
    part.rename(target)


def tool(name: str, package: str) -> str:
    """The path of a program; raises `NoLab` that names the Debian package which has it."""
    found = shutil.which(
        name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    )
    if not found:
        raise NoLab(f"{name} is not installed: apt-get install {package}")
    return found


def run(*command: str, cwd: Path | None = None) -> str:
    """What a program says; raises `NoLab` with its last words where it fails."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise NoLab(f"{command[0]} failed: {said[-1] if said else done.returncode}")
    return done.stdout
