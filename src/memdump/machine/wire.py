"""How an image goes over a network: the records that ``tcp:`` sends and ``memdump receive`` takes.

The sender begins with `MAGIC`; everything else, both ways, is a record: a letter, the length of what follows
(32 bits, big-endian), and that many bytes.  ``docs/destinations.md`` tells which follows which.  A stream is
whole only if its `COMMIT` came and was acknowledged: a sender that dies cannot look like one that is done.
"""

import json
import socket
import struct
import time
from typing import Any, Dict, NamedTuple, Optional, Tuple, Type, Union

from memdump.errors import MemdumpError, UsageError

MAGIC = b"memdump stream 2\n"
HEADER = struct.Struct(">cI")

HELLO = b"H"
"""Sender, once: JSON with ``name``, ``layers`` (list of text), ``size`` (at most; 0: unknown), ``exact`` (it
is just that), ``reserve`` (what it may take to end early)."""
DATA = b"D"
COMMIT = b"C"
"""Sender: all is sent; JSON with ``size`` and ``sha256`` of all DATA."""
ABANDON = b"A"
"""Sender: no more comes, and it is not the whole; JSON as of COMMIT."""
BESIDE = b"B"
"""Sender, after COMMIT or ABANDON: the suffix of a file beside the image, whose bytes follow as DATA."""
ATTACH = b"F"
"""Sender, behind these: that was all of it; JSON as of COMMIT."""
END = b"E"
"""Sender: no more attachments."""
ALIVE = b"P"
"""Sender, at any time after READY: it is at work and has nothing to send (a sweep, a token to be touched)."""
READY = b"R"
"""Receiver, after HELLO: JSON with ``name``, the file that it becomes there."""
TROUBLE = b"T"
"""Receiver, at any time: text; the sender should come to an end soon."""
FAILED = b"X"
"""Receiver, at any time: text; it takes nothing more."""
ACK = b"K"
"""Receiver, after COMMIT, ABANDON, ATTACH: JSON with ``size`` and ``sha256`` of what was written."""

MOST_DATA = 1 << 20
_LARGEST = {
    HELLO: 64 << 10,
    DATA: MOST_DATA,
    COMMIT: 4 << 10,
    ABANDON: 4 << 10,
    BESIDE: 64,
    ATTACH: 4 << 10,
    END: 0,
    ALIVE: 0,
    READY: 4 << 10,
    TROUBLE: 4 << 10,
    FAILED: 4 << 10,
    ACK: 4 << 10,
}
"""The kinds of record and the most bytes that each may have."""

SUFFIXES = (".json", ".json.sig", ".custody.jsonl")
"""What may be attached."""
MOST_BESIDE = 256 << 20
"""Bytes that a file beside an image may have."""

_CONNECTING = 20.0
"""Seconds."""

STALL = 120.0
"""Seconds after which a peer that takes nothing, or says nothing, counts as lost."""
PULSE = 20.0
"""Seconds after which a sender that has nothing else to say says that it is there."""


class Broken(MemdumpError):
    """The connection ended or failed before its time, or what came makes no sense."""


class Record(NamedTuple):
    """What came."""

    kind: bytes
    data: bytearray


class Wire:
    """Records over a connected socket."""

    def __init__(self, connection: socket.socket, peer: str) -> None:
        """Use a connection; ``peer`` names the other side in messages."""
        self.peer = peer
        self.deadline: Optional[float] = None
        """On the monotonic clock, when something must have come."""
        self._socket = connection
        self._ahead = b""

    def send(self, kind: bytes, data: Union[bytes, memoryview] = b"") -> None:
        """Send a record; raises `Broken`."""
        try:
            self._socket.settimeout(STALL)
            self._socket.sendall(HEADER.pack(kind, len(data)))
            self._socket.sendall(data)
        except OSError as error:
            raise self._broken(error) from None

    def send_magic(self) -> None:
        """Begin; raises `Broken`."""
        try:
            self._socket.settimeout(STALL)
            self._socket.sendall(MAGIC)
        except OSError as error:
            raise self._broken(error) from None

    def receive(self, timeout: Optional[float] = None) -> Record:
        """Wait for a record, ``timeout`` seconds at most for any part of it; raises `Broken`."""
        kind, size = HEADER.unpack(self.receive_bytes(HEADER.size, timeout))
        if size > _LARGEST.get(kind, -1):
            raise Broken(f"{self.peer}: sent what memdump does not understand")
        return Record(kind, self.receive_bytes(size, timeout))

    def receive_bytes(self, size: int, timeout: Optional[float] = None) -> bytearray:
        """Wait for so many bytes; raises `Broken`."""
        found = bytearray(size)
        view = memoryview(found)
        taken, self._ahead = self._ahead[:size], self._ahead[size:]
        view[: len(taken)] = taken
        view = view[len(taken) :]
        try:
            while view:
                self._socket.settimeout(self._patience(timeout))
                count = self._socket.recv_into(view)
                if not count:
                    raise Broken(f"{self.peer}: the connection ended before its time")
                view = view[count:]
        except OSError as error:
            raise self._broken(error) from None
        return found

    def _patience(self, timeout: Optional[float]) -> Optional[float]:
        if self.deadline is None:
            return timeout
        left = max(self.deadline - time.monotonic(), 0.001)
        return left if timeout is None else min(left, timeout)

    def waiting(self) -> bool:
        """Tell whether something came, or the connection ended, without waiting for it."""
        if not self._ahead:
            self._socket.settimeout(0)
            try:
                self._ahead = self._socket.recv(1)
            except OSError as error:
                # Over TLS, what came may be the business of TLS alone.
                return not would_block(error)
        return True

    def drain(self, seconds: float) -> None:
        """Take what still comes and forget it, so that what was sent last is not lost with the connection."""
        end = time.monotonic() + seconds
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while time.monotonic() < end:
                self._socket.settimeout(max(end - time.monotonic(), 0.001))
                if not self._socket.recv(MOST_DATA):
                    return
        except OSError:
            return

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _broken(self, error: OSError) -> Broken:
        return Broken(f"{self.peer}: {reason(error)}")


def dial(host: str, port: int, peer: str, hint: str = "") -> socket.socket:
    """Connect to a port; raises `MemdumpError`, with a hint where nobody listens there."""
    try:
        connection = socket.create_connection((host, port), _CONNECTING)
    except ConnectionRefusedError:
        raise MemdumpError(f"{peer}: nobody listens there{hint}") from None
    except (OSError, UnicodeError) as error:
        why = reason(error) if isinstance(error, OSError) else "is no name of a host"
        raise MemdumpError(f"{peer}: {why}") from None
    keep_alive(connection)
    return connection


def keep_alive(connection: socket.socket) -> None:
    """Have the system notice within two minutes that the other machine is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 30),
        ("TCP_KEEPINTVL", 15),
        ("TCP_KEEPCNT", 6),
        ("TCP_USER_TIMEOUT", int(STALL * 1000)),
    ):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def would_block(error: OSError) -> bool:
    """Tell whether a socket that does not wait only had nothing to give."""
    return isinstance(error, BlockingIOError) or type(error).__name__ in (
        "SSLWantReadError",
        "SSLWantWriteError",
    )


def reason(error: OSError) -> str:
    """Say why a connection failed, TLS included, in a few words."""
    verification = getattr(error, "verify_message", None)
    if verification:
        return f"its certificate is not accepted: {verification}"
    if isinstance(error, socket.timeout):
        return "does not answer"
    if isinstance(error, (BrokenPipeError, ConnectionResetError)):
        return "the other side closed the connection"
    if getattr(error, "reason", None) == "WRONG_VERSION_NUMBER":
        return "speaks no TLS"
    if hasattr(error, "library"):  # an ssl.SSLError, whose strerror names a line of C
        return f"TLS: {(getattr(error, 'reason', None) or str(error)).replace('_', ' ').lower()}"
    return error.strerror or str(error) or type(error).__name__


def pack(fields: Dict[str, Any]) -> bytes:
    """Write the JSON of a record."""
    return json.dumps(fields).encode()


def unpack(data: bytearray, peer: str, **types: Type[Any]) -> Dict[str, Any]:
    """Read the JSON of a record and check the types of its fields; raises `Broken`.

    Numbers are sizes: neither negative nor larger than a file can be.
    """
    try:
        fields = json.loads(data.decode())
        found = {name: fields[name] for name in types}
        sound = all(type(found[name]) is kind for name, kind in types.items())
        if sound and all(0 <= value < 1 << 63 for value in found.values() if type(value) is int):
            return found
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise Broken(f"{peer}: sent what memdump does not understand")


def words(data: bytearray) -> str:
    """Read the text of a record, which another machine chose."""
    return data.decode("utf-8", "backslashreplace")


def address(text: str, default: Optional[str] = None) -> Tuple[str, int]:
    """Read ``HOST:PORT`` or ``[IPV6]:PORT``, with a default host ``PORT`` too; raises `UsageError`."""
    host, colon, port = text.rpartition(":")
    if not colon and default is not None:
        host = default
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not (port.isascii() and port.isdigit() and int(port[:6]) < 1 << 16):
        raise UsageError(
            f"{text!r} is no address: write HOST:PORT, as in 192.0.2.1:9000 or [2001:db8::1]:9000"
        )
    return host, int(port)


def spell(host: str, port: int) -> str:
    """Write an address as `address` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
