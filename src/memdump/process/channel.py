"""Talking between memdump and its guardian: objects, one after the other, through a pair of sockets."""

from __future__ import annotations

import pickle
import select
import socket
import struct
from typing import Any

_SIZE = struct.Struct("=Q")


class Channel:
    """One end; the other end is always our own program's."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        """Give the descriptor, to wait for."""
        return self._end.fileno()

    def waits(self, seconds: float) -> bool:
        """Wait so long at most; whether there is something to receive, be it the end."""
        return bool(select.select([self._end], [], [], seconds)[0])

    def send(self, value: object) -> None:
        """Send an object; raises ``OSError`` where nobody is there any more."""
        data = pickle.dumps(value)
        self._end.sendall(_SIZE.pack(len(data)) + data)

    def receive(self) -> Any:
        """Receive an object; raises ``EOFError`` where the other end is gone."""
        (size,) = _SIZE.unpack(self._exactly(_SIZE.size))
        return pickle.loads(self._exactly(size))  # noqa: S301 (from our own process)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                part = self._end.recv(min(size - len(data), 1 << 20))
            except ConnectionError:
                part = b""
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def close(self) -> None:
        """Let go of it, which the other end notices."""
        self._end.close()


def pair() -> tuple[Channel, Channel]:
    """Make both ends."""
    one, other = socket.socketpair()
    return Channel(one), Channel(other)
