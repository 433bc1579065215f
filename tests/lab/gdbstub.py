"""Changing a guest's memory from outside, through QEMU's stub for gdb.

The protocol is in gdb's manual ("Remote Protocol"); to use physical addresses is QEMU's addition to it
(``docs/system/gdb.rst``).  The guest stands still for as long as somebody is connected.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.boot import Guest


class Stub:
    """A connection to the stub."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rwb")

    def do(self, command: str) -> None:
        """Send a command that either works or does not; raises `RuntimeError`."""
        data = command.encode()
        self._stream.write(b"$%b#%02x" % (data, sum(data) % 256))
        self._stream.flush()
        answer = self._answer()
        while answer.startswith("T"):  # that the guest stands still is told, too, when somebody has come
            answer = self._answer()
        if answer != "OK":
            raise RuntimeError(f"QEMU's stub answers {answer!r} to {command}")

    def _answer(self) -> str:
        answer = b""
        while not answer.endswith(b"#"):
            byte = self._stream.read(1)
            if not byte:
                raise RuntimeError("QEMU's stub for gdb went away")
            answer = answer + byte if byte not in b"+$" else b""
        self._stream.read(2)  # the sum
        self._stream.write(b"+")
        self._stream.flush()
        return answer[:-1].decode()


def write(guest: Guest, address: int, data: bytes) -> None:
    """Write to physical memory; the guest stands still meanwhile.  Raises `RuntimeError`."""
    with _connected(guest) as stub:
        stub.do("Qqemu.PhyMemMode:1")
        stub.do(f"M{address:x},{len(data):x}:{data.hex()}")
        stub.do("D")


@contextlib.contextmanager
def _connected(guest: Guest) -> Iterator[Stub]:
    path = guest.sockets / "gdb"
    _monitor(guest, f"gdbserver unix:{path},server=on,wait=off")
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(path))
            yield Stub(connection)
    finally:
        _monitor(guest, "gdbserver none")


def _monitor(guest: Guest, line: str) -> None:
    guest.monitor.ask("human-monitor-command", **{"command-line": line})
