"""The other end of ``tcp:``: takes what a sender sends and writes it to a file.

The sender may be anyone who reaches the port, so nothing that it says is believed: names are plain, sizes are
bounded, nothing is written over, and bytes are counted and digested here.
"""

import contextlib
import hashlib
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, NamedTuple, Optional

from memdump.errors import MemdumpError, UsageError
from memdump.machine import wire
from memdump.machine.destination import Destination, Options, room
from memdump.machine.file_destination import FileDestination
from memdump.machine.pipeline import Digest

if TYPE_CHECKING:
    import ssl

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,199}")
_NOT_AN_IMAGE = (".part", *wire.SUFFIXES)
_PATIENCE = 30.0
"""Seconds that a sender has to say who it is."""
_FAREWELL = 5.0
"""Seconds that a sender has to hear why it failed."""
_ON_ITS_WAY = 16 << 20
"""Bytes that may be in the buffers of the network when the sender hears that the disk is full."""


class Stranger(MemdumpError):
    """Who connected is no sender that can be served; nothing was written."""


class Received(NamedTuple):
    """What became of an image."""

    path: str
    """The file; it ends with ``.part`` if it is not the whole."""
    size: int
    sha256: str
    whole: bool
    """Whether the sender said that this is all."""
    lacks: Optional[str]
    """Why what belongs to it (the manifest) did not come; None where all came."""


class BrokenOff(MemdumpError):
    """The stream broke, or this disk failed; what came stands in a part."""

    def __init__(self, message: str, path: str, sha256: str) -> None:
        """Say so of the part at ``path``, which has this digest."""
        super().__init__(message)
        self.path = path
        self.sha256 = sha256


Started = Callable[[str, int], Callable[[int], None]]
"""Gets the path, and the bytes that may come (0: unknown); gives what is called with the bytes that came."""


def receive(
    connection: socket.socket,
    peer: str,
    target: Path,
    context: "Optional[ssl.SSLContext]",
    started: Started,
) -> Optional[Received]:
    """Take one image from a new connection and write it to ``target``, a file or the folder for it.

    ``peer`` names the sender.  The result is None where nobody spoke.  Raises `Stranger` where nothing was
    begun, and `BrokenOff` where the stream broke or this disk failed; the connection is closed then.
    """
    with contextlib.closing(_secured(connection, peer, context)) as secured:
        line = wire.Wire(secured, peer)
        line.deadline = time.monotonic() + _PATIENCE
        hello = _hello(line)
        if hello is None:
            return None
        try:
            place = _open(hello, target)
        except MemdumpError as error:
            _fail(line, str(error), target / "*" if target.is_dir() else target)
            raise Stranger(f"{peer}: was refused: {error}") from None
        with place:
            line.deadline = None
            progress = started(place.place, hello["size"])  # first, since there is a part by now
            line.send(wire.READY, wire.pack({"name": place.file}))
            return _take(line, place, progress)


def _secured(connection: socket.socket, peer: str, context: "Optional[ssl.SSLContext]") -> socket.socket:
    wire.keep_alive(connection)
    if context is None:
        return connection
    connection.settimeout(_PATIENCE)
    try:
        return context.wrap_socket(connection, server_side=True)
    except (OSError, ValueError) as error:
        connection.close()
        why = wire.reason(error) if isinstance(error, OSError) else str(error)
        raise Stranger(f"{peer}: {why}") from None


def _hello(line: wire.Wire) -> Optional[Dict[str, Any]]:
    """Hear what the sender wants to send."""
    try:
        found = line.receive_bytes(1)
    except wire.Broken:
        return None
    try:
        if found[0] == 0x16:  # the first byte of a TLS handshake
            raise wire.Broken(f"{line.peer}: speaks TLS; listen with --tls-cert and --tls-key")
        if found != wire.MAGIC[:1] or line.receive_bytes(len(wire.MAGIC) - 1) != wire.MAGIC[1:]:
            raise wire.Broken(f"{line.peer}: is no memdump, or one of another age")
        kind, data = line.receive()
        fields = wire.unpack(data, line.peer, name=str, layers=list, size=int, exact=bool, reserve=int)
        if kind != wire.HELLO:
            raise wire.Broken(f"{line.peer}: sent what memdump does not understand")
    except wire.Broken as error:
        _fail(line, "it understands another protocol", Path())
        raise Stranger(str(error)) from None
    return fields


def _open(hello: Dict[str, Any], target: Path) -> FileDestination:
    path = target
    if target.is_dir():
        name: str = hello["name"]
        if not _NAME.fullmatch(name) or name.endswith(_NOT_AN_IMAGE):
            raise UsageError("a name of letters, digits and . _ - + = @ is wanted, and one of an image")
        path = target / name
    free, _ = room(path)
    if free is not None and hello["exact"] and hello["size"] > free:
        raise UsageError(f"there is room for {free >> 20} MiB and the image takes {hello['size'] >> 20}")
    reserve: int = hello["reserve"] + _ON_ITS_WAY
    if free is not None:
        reserve = min(reserve, free // 2)
    options = Options(path.name, size=hello["size"], attachments=wire.SUFFIXES, reserve=reserve)
    return FileDestination(path, options)


def _take(line: wire.Wire, place: FileDestination, progress: Callable[[int], None]) -> Received:
    digest = Digest(place)
    try:
        try:
            kind, data = _take_data(line, place, digest, progress)
        finally:
            sha256 = digest.close()
        claimed = wire.unpack(data, line.peer, size=int, sha256=str)
        if kind not in (wire.COMMIT, wire.ABANDON) or claimed != {"size": digest.size, "sha256": sha256}:
            raise wire.Broken(f"{line.peer}: what arrived is not what was sent")
        whole = kind == wire.COMMIT
        if whole:
            place.commit()
        else:
            place.abandon()
    except MemdumpError as error:
        place.abandon()
        _fail(line, str(error), Path(place.place))
        why = str(error)
        if isinstance(error, wire.Broken):
            why = f"{why}, after {digest.size:,} bytes; {place.partial}"
        raise BrokenOff(why, f"{place.place}.part", sha256) from None
    path = place.place if whole else f"{place.place}.part"
    return Received(path, digest.size, sha256, whole, _finish(line, place, digest.size, sha256))


def _take_data(
    line: wire.Wire, place: Destination, digest: Digest, progress: Callable[[int], None]
) -> wire.Record:
    """Write what comes, and give the first record that is no data."""
    told = None
    while True:
        record = _next(line)
        if record.kind != wire.DATA:
            return record
        digest.write(memoryview(record.data))
        progress(digest.size)
        if place.trouble != told:
            told = place.trouble
            line.send(wire.TROUBLE, f"{told} of the receiver".encode())


def _next(line: wire.Wire) -> wire.Record:
    """Wait for the next record that says something; raises `wire.Broken` where the sender is silent."""
    while True:
        record = line.receive(wire.STALL)
        if record.kind != wire.ALIVE:
            return record


def _finish(line: wire.Wire, place: Destination, size: int, sha256: str) -> Optional[str]:
    """Say what was written, take the attachments, and tell why not all came."""
    try:
        line.send(wire.ACK, wire.pack({"size": size, "sha256": sha256}))
        while True:
            kind, data = _next(line)
            if kind == wire.END:
                return None
            suffix = data.decode("ascii", "replace")
            if kind != wire.BESIDE or suffix not in wire.SUFFIXES:
                raise wire.Broken(f"{line.peer}: sent what memdump does not understand")
            beside = _Beside(line)
            place.attach(suffix, beside)
            line.send(wire.ACK, wire.pack(beside.found))
    except MemdumpError as error:
        _fail(line, str(error), Path(place.place))
        return str(error)


class _Beside:
    """The bytes of a file beside the image, as they come; `Broken` where they are not what was sent."""

    def __init__(self, line: wire.Wire) -> None:
        self.found: Dict[str, Any] = {}
        self._line = line

    def __iter__(self) -> Iterator[bytes]:
        digest, size = hashlib.sha256(), 0
        while True:
            kind, data = _next(self._line)
            if kind != wire.DATA:
                break
            digest.update(data)
            size += len(data)
            if size > wire.MOST_BESIDE:
                raise wire.Broken(f"{self._line.peer}: sends too large a file beside the image")
            yield bytes(data)
        self.found = {"size": size, "sha256": digest.hexdigest()}
        if kind != wire.ATTACH or wire.unpack(data, self._line.peer, size=int, sha256=str) != self.found:
            raise wire.Broken(f"{self._line.peer}: what arrived is not what was sent")


def _fail(line: wire.Wire, why: str, path: Path) -> None:
    """Tell the sender, who need not know the folder of ``path``."""
    with contextlib.suppress(MemdumpError):
        line.send(wire.FAILED, why.replace(f"{path.parent}/", "").encode("utf-8", "backslashreplace")[:4096])
        line.drain(_FAREWELL)
