"""``memdump receive`` on another machine as the place an image is written to."""

import contextlib
import hashlib
import socket
import threading
from typing import Optional, Union

from memdump.errors import MemdumpError
from memdump.machine import wire
from memdump.machine.destination import Destination, Options
from memdump.machine.output import Content, each
from memdump.machine.pipeline import Digest


class TcpDestination(Destination):
    """A receiver, which keeps what it got as a ``.part`` file until it has heard that this is the whole."""

    def __init__(self, address: str, options: Options) -> None:
        """Connect to ``HOST:PORT`` and say what comes; raises `MemdumpError` where it is not taken."""
        host, port = wire.address(address)
        self._peer = wire.spell(host, port)
        self._trouble: Optional[str] = None
        self._reason = f"{self._peer}: the connection is lost"
        self._ended = False
        self._wire: Optional[wire.Wire] = wire.Wire(_connect(host, port, self._peer, options), self._peer)
        # A connection over TLS may be used by one thread at a time.
        self._in_use = threading.RLock()
        self._lost = threading.Event()
        try:
            self.file = self._introduce(options)
        except BaseException:
            self._lose()
            raise
        self.place = f"tcp:{self._peer} ({self.file})"
        self.partial = f"what was sent stands in {self.file}.part at {self._peer}"
        self._digest = Digest(_Records(self))
        threading.Thread(target=self._pulse, name="pulse", daemon=True).start()

    def _pulse(self) -> None:
        """Say again and again that we are there: a sweep or a passphrase may take longer than they wait."""
        while not self._lost.wait(wire.PULSE):
            with self._in_use:
                try:
                    self._send(wire.ALIVE, b"")
                except MemdumpError as error:  # which the next record is told; half of this one may be sent
                    self._reason = str(error)

    def _introduce(self, options: Options) -> str:
        assert self._wire
        hello = {
            "name": options.name,
            "layers": list(options.layers),
            "size": options.size,
            "exact": options.exact,
            "reserve": options.reserve,
        }
        try:
            self._wire.send_magic()
            self._send(wire.HELLO, wire.pack(hello))
            ready = self._hear(wire.READY)
        except wire.Broken as error:
            if options.tls or options.tls_ca or options.tls_cert:
                raise
            raise wire.Broken(f"{error}; if it listens with TLS, add --tls-ca FILE") from None
        name: str = wire.unpack(ready, self._peer, name=str)["name"]
        if not name or "/" in name or "\0" in name:
            raise MemdumpError(f"{self._peer}: sent what memdump does not understand")
        return name

    @property
    def trouble(self) -> Optional[str]:
        """Set when the receiver's disk is full."""
        return self._trouble

    def write(self, data: Union[bytes, memoryview], /) -> None:
        """Send all of ``data``; raises `MemdumpError` where the connection or the receiver fails."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), wire.MOST_DATA):
            self._digest.write(view[start : start + wire.MOST_DATA])

    def send_data(self, data: memoryview) -> None:
        """Send a record of data, and hear what the receiver has to say meanwhile."""
        with self._in_use:
            while self._wire and self._wire.waiting():
                self._hear()
            self._send(wire.DATA, data)

    def commit(self) -> None:
        """Have the receiver give it its name, and see that it has what was sent."""
        self._finish(wire.COMMIT)

    def abandon(self) -> None:
        """Have the receiver keep it as a part."""
        if not self._ended:
            with contextlib.suppress(MemdumpError):
                self._finish(wire.ABANDON)

    def _finish(self, kind: bytes) -> None:
        self._ended = True
        sha256 = self._digest.close()
        self._deliver(
            kind, wire.pack({"size": self._digest.size, "sha256": sha256}), self._digest.size, sha256
        )

    def attach(self, suffix: str, data: Content) -> None:
        """Send a file along."""
        digest, size = hashlib.sha256(), 0
        with self._in_use:
            self._send(wire.BESIDE, suffix.encode())
            for piece in each(data):
                for start in range(0, len(piece), wire.MOST_DATA):
                    self._send(wire.DATA, piece[start : start + wire.MOST_DATA])
                digest.update(piece)
                size += len(piece)
            sha256 = digest.hexdigest()
            self._deliver(wire.ATTACH, wire.pack({"size": size, "sha256": sha256}), size, sha256)

    def _deliver(self, kind: bytes, data: bytes, size: int, sha256: str) -> None:
        """Send a record, and see that the receiver has written these bytes; raises `MemdumpError`."""
        with self._in_use:
            self._send(kind, data)
            found = wire.unpack(self._hear(wire.ACK), self._peer, size=int, sha256=str)
        if found != {"size": size, "sha256": sha256}:
            self._lose()
            raise MemdumpError(
                f"{self._peer}: wrote other bytes than were sent; do not trust what stands there"
            )

    def _send(self, kind: bytes, data: Union[bytes, memoryview]) -> None:
        if self._wire is None:
            raise MemdumpError(self._reason)
        try:
            self._wire.send(kind, data)
        except wire.Broken:
            with contextlib.suppress(wire.Broken):  # whose reason says less
                while True:
                    self._hear()
            self._lose()
            raise

    def _hear(self, expected: Optional[bytes] = None) -> bytearray:
        """Take a record of the receiver, or all up to the expected one; raises `MemdumpError`."""
        while True:
            if self._wire is None:
                raise MemdumpError(self._reason)
            try:
                kind, data = self._wire.receive(wire.STALL)
            except wire.Broken:
                self._lose()
                raise
            if kind == wire.TROUBLE:
                self._trouble = wire.words(data)
            elif kind == wire.FAILED:
                self._lose()
                raise MemdumpError(f"{self._peer}: the receiver says: {wire.words(data)}")
            elif kind != expected:
                self._lose()
                raise MemdumpError(f"{self._peer}: sent what memdump does not understand")
            if expected is None or kind == expected:
                return data

    def _lose(self) -> None:
        self._lost.set()
        with self._in_use:
            if self._wire is not None:
                self._wire.close()
                self._wire = None

    def close(self) -> None:
        """Say that nothing more comes, and close the connection."""
        with self._in_use:
            if self._wire is not None:
                with contextlib.suppress(MemdumpError):
                    self._wire.send(wire.END)
            self._lose()


class _Records:
    """The stream behind the digest."""

    def __init__(self, place: TcpDestination) -> None:
        self._place = place

    def write(self, data: Union[bytes, memoryview], /) -> None:
        self._place.send_data(memoryview(data))


def _connect(host: str, port: int, peer: str, options: Options) -> socket.socket:
    def connect() -> socket.socket:
        return wire.dial(host, port, peer, "; start 'memdump receive' there first")

    if not (options.tls or options.tls_ca or options.tls_cert or options.tls_key):
        return connect()
    from memdump.machine.tls import Identity

    return Identity(options.tls_ca, options.tls_cert, options.tls_key).connect(host, connect, peer)
