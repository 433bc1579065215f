"""Processes that do something a responder wants to see, and then stand still.

`start` forks; what runs in the child sets something up and returns, and the child then tells its parent and
sleeps until the guest ends.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

from tests.lab.inside import libc

if TYPE_CHECKING:
    from collections.abc import Callable

Actor = dict[str, Any]


def start(role: str, act: Callable[..., Any], *arguments: Any, name: bytes | None = None) -> Actor:
    """Fork, run ``act`` in the child and wait until it is set up; what it returns is kept alive."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(act, arguments, name, writable)
    os.close(writable)
    said = os.read(readable, 65536)  # one message, not all: a child of the child may hold the other end
    os.close(readable)
    if said not in (b"ready", b""):
        raise RuntimeError(f"{role}: {said.decode(errors='replace')}")
    return {"role": role, "pid": pid}


def _child(act: Callable[..., Any], arguments: tuple[Any, ...], name: bytes | None, writable: int) -> None:
    """Never returns.  An ``act`` that execs closes ``writable`` by that, which tells the parent as well."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if name is not None:
            libc.set_name(name)
        kept = act(*arguments)
        os.write(writable, b"ready")
        os.close(writable)
        while kept is not functools:  # for ever; the comparison keeps what was returned alive
            signal.pause()
    except BaseException:
        os.write(writable, traceback.format_exc().encode())
    finally:
        os._exit(1)


def become(path: str, arguments: list[bytes], environment: dict[bytes, bytes] | None = None) -> None:
    """Replace the process by a program."""
    sys.stdout.flush()
    os.execve(path, arguments, os.environb if environment is None else environment)


def user(uid: int, effective: int | None = None, groups: tuple[int, ...] = ()) -> None:
    """Become another user for good, or with ``effective`` only in part."""
    os.setgroups(list(groups))
    os.setresgid(uid, uid if effective is None else effective, uid)
    os.setresuid(uid, uid if effective is None else effective, uid)
