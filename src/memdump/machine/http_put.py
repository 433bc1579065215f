"""An HTTP(S) server as the place an image is written to, by one PUT: a pre-signed address, WebDAV, nginx."""

import contextlib
import http.client
import re
import socket
import urllib.parse
from typing import Optional, Tuple, Union

from memdump.errors import MemdumpError, UsageError
from memdump.machine import wire
from memdump.machine.destination import Destination, Options, shown
from memdump.machine.output import Content

_FIRST_WORD = 2.0
"""Seconds given to the server to refuse before anything is sent; not every server knows how to."""
_LAST_WORD = 5.0
"""Seconds given to a server that closed the connection to have said why."""
_HEAD = 64 << 10
_CODE = re.compile(rb"<Code>(\w{1,64})</Code>")  # in the error of an object store
_WANTS_LENGTH = (411, 501)  # by the RFC, and by S3


class HttpDestination(Destination):
    """One PUT, which the server drops if it is not ended: of a run that is stopped nothing is kept."""

    attaches = False

    def __init__(self, url: str, options: Options) -> None:
        """Ask to PUT at ``url``; raises `UsageError` where it is none, `MemdumpError` where it is refused."""
        self.place = shown(url)
        self.partial = f"nothing is kept at {self.place}"
        self._length = options.size if options.exact else None
        self._sent = 0
        address = parse(url, self.place)
        self.file = file_name(address)
        self._connection: Optional[http.client.HTTPConnection] = _connect(address, self.place, options)
        try:
            self._ask(self._connection, address)
        except BaseException:
            self.abandon()
            raise

    def _ask(self, connection: http.client.HTTPConnection, address: urllib.parse.SplitResult) -> None:
        try:
            connection.putrequest(
                "PUT",
                urllib.parse.urlunsplit(("", "", address.path, address.query, "")),
                skip_accept_encoding=True,
            )
            if self._length is None:
                connection.putheader("Transfer-Encoding", "chunked")
            else:
                connection.putheader("Content-Length", str(self._length))
            if str(address.hostname).endswith(".blob.core.windows.net"):
                connection.putheader("x-ms-blob-type", "BlockBlob")  # Azure does without for nothing but this
            connection.putheader("Expect", "100-continue")
            connection.endheaders()
        except OSError as error:
            raise self._failed(error) from None
        except (http.client.HTTPException, ValueError):
            raise UsageError(
                f"{self.place}: has characters that must be written as %XX in an address"
            ) from None
        status, head = _first_word(connection.sock)
        if status >= 200:
            raise self._refused(status, head)

    def write(self, data: Union[bytes, memoryview], /) -> None:
        """Send all of ``data``; raises `MemdumpError` where the server does not take it."""
        view = memoryview(data).cast("B")
        if not view:
            return
        if self._length is None:
            self._send(b"%x\r\n" % len(view), view, b"\r\n")
        else:
            self._send(view)
        self._sent += len(view)

    def _send(self, *pieces: Union[bytes, memoryview]) -> None:
        if self._connection is None:
            raise MemdumpError(f"{self.place}: the connection is lost")
        try:
            for piece in pieces:
                self._connection.sock.sendall(piece)
        except OSError as error:
            raise self._failed(error) from None

    def commit(self) -> None:
        """End the PUT, and see that the server has taken it."""
        if self._length is None:
            self._send(b"0\r\n\r\n")
        elif self._sent != self._length:
            self.abandon()
            raise MemdumpError(f"{self.place}: {self._length} bytes were announced and {self._sent} came")
        connection, self._connection = self._connection, None
        if connection is None:
            raise MemdumpError(f"{self.place}: the connection is lost")
        with contextlib.closing(connection):
            try:
                status, head = _answer(connection)
            except (OSError, http.client.HTTPException) as error:
                why = wire.reason(error) if isinstance(error, OSError) else "its answer makes no sense"
                raise MemdumpError(f"{self.place}: {why}; whether the image is there is not known") from None
        if not 200 <= status < 300:
            raise self._refused(status, head)

    def abandon(self) -> None:
        """Close the connection before the end, which tells the server that this is not the whole."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def attach(self, suffix: str, data: Content) -> None:  # noqa: ARG002
        """Refuse: the address permits one object."""
        raise MemdumpError(f"{self.file}{suffix}: finds no place; the address takes the image alone")

    def close(self) -> None:
        """Do nothing: the end of the PUT was the end."""

    def _failed(self, error: OSError) -> MemdumpError:
        """Tell why the connection failed, in the server's words if it left some."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                connection.sock.settimeout(_LAST_WORD)
                status, head = _answer(connection)
                return self._refused(status, head)
        return MemdumpError(f"{self.place}: {wire.reason(error)}; {self.partial}")

    def _refused(self, status: int, head: bytes) -> MemdumpError:
        """Tell what an answer other than success means; ``head`` is its header and the begin of its text."""
        code = _CODE.search(head)
        words = (
            f"{status} {code.group(1).decode() if code else http.client.responses.get(status, '')}".rstrip()
        )
        location = re.search(rb"^location:[ \t]*([^\r\n]+)", head, re.IGNORECASE | re.MULTILINE)
        if 300 <= status < 400 and location:
            where = shown(location.group(1).decode("utf-8", "backslashreplace").strip()[:200])
            return MemdumpError(f"{self.place}: moved to {where} ({words}); send it there")
        if status in _WANTS_LENGTH and self._length is None:
            return MemdumpError(
                f"{self.place}: wants to know the length beforehand ({words}); acquire --spool FOLDER"
                " keeps the image on a disk until it is whole; or send it neither compressed nor encrypted"
            )
        if status in (401, 403):
            return MemdumpError(f"{self.place}: does not permit it ({words}); a signed address expires")
        return MemdumpError(f"{self.place}: the server answers {words}; {self.partial}")


class _Https(http.client.HTTPConnection):
    """HTTP over a connection that is made elsewhere; its port goes without saying."""

    default_port = 443


def parse(url: str, place: str) -> urllib.parse.SplitResult:
    """Take an address apart; raises `UsageError` where nothing can be put there."""
    try:
        address = urllib.parse.urlsplit(url)
        address.port  # noqa: B018  raises where it is none
    except ValueError:
        raise UsageError(f"{place}: is no address") from None
    if address.username is not None:
        raise UsageError(f"{place}: an address with a name and a password in it is not used; have it signed")
    if not address.hostname or address.path.endswith("/") or not address.path:
        raise UsageError(f"{place}: names no file on a server; write https://HOST/NAME")
    return address


def file_name(address: urllib.parse.SplitResult) -> str:
    """Give the name behind the last slash."""
    return urllib.parse.unquote(address.path.rpartition("/")[2])


def _connect(address: urllib.parse.SplitResult, place: str, options: Options) -> http.client.HTTPConnection:
    host = str(address.hostname)
    if address.scheme == "http":
        found = http.client.HTTPConnection(host, address.port, timeout=wire.STALL)
        found.sock = wire.dial(host, found.port, place)
        return found
    from memdump.machine.tls import Identity

    found = _Https(host, address.port, timeout=wire.STALL)
    identity = Identity(options.tls_ca, options.tls_cert, options.tls_key)
    found.sock = identity.connect(host, lambda: wire.dial(host, found.port, place), place)
    return found


def _first_word(connection: socket.socket) -> Tuple[int, bytes]:
    """Wait a little for leave to go on, or a refusal before memory is taken in vain (RFC 9110, 10.1.1).

    Gives the status and the header; status 0 where the server waits for what comes.
    """
    status, head = 0, b""
    with contextlib.suppress(OSError, ValueError, IndexError):
        while status != 100:
            connection.settimeout(_FIRST_WORD)
            head = connection.recv(1)
            connection.settimeout(wire.STALL)
            # No byte more: what follows leave is for the answer to the whole.
            while head and not head.endswith(b"\r\n\r\n") and len(head) < _HEAD:
                head += connection.recv(1)
            status = int(head.split(b" ", 2)[1])
            if status >= 200:
                connection.settimeout(_LAST_WORD)
                head += connection.recv(_HEAD)
                break
    connection.settimeout(wire.STALL)
    return status, head


def _answer(connection: http.client.HTTPConnection) -> Tuple[int, bytes]:
    """Wait for the answer; gives the status, and the header with the beginning of the text."""
    response = connection.getresponse()
    head = b"".join(f"{name}: {value}\n".encode("utf-8", "replace") for name, value in response.getheaders())
    with contextlib.suppress(OSError, http.client.HTTPException):
        head += response.read(_HEAD)
    return response.status, head
