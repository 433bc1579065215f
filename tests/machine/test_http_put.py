"""An image by HTTP PUT, to servers of the standard library and to some that misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import os
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from memdump.errors import MemdumpError, UsageError
from memdump.machine.destination import Options, open_destination, shown
from tests.machine.peers import certificate, listener, sender

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

PLAIN = Options("web1.lime")
SECRET = "X-Amz-Signature=5ec3e7"


class Handler(BaseHTTPRequestHandler):
    """Takes a PUT as RFC 9112 has it, and keeps what arrived whole."""

    protocol_version = "HTTP/1.1"
    answer: ClassVar[tuple[int, dict[str, str], bytes]] = (201, {}, b"")
    refuse_early: ClassVar[bool] = False
    arrived: ClassVar[dict[str, bytes]] = {}
    headers_seen: ClassVar[list[dict[str, str]]] = []

    def handle_expect_100(self) -> bool:
        if self.refuse_early:
            self._reply()
            return False
        return super().handle_expect_100()

    def do_PUT(self) -> None:
        self.headers_seen.append(dict(self.headers))
        if "Content-Length" in self.headers:
            size = int(self.headers["Content-Length"])
            data = self.rfile.read(size)
            whole = len(data) == size
        else:
            data, whole = self._chunks()
        if not whole:
            self.close_connection = True
            return
        self.arrived[self.path] = data
        self._reply()

    def _chunks(self) -> tuple[bytes, bool]:
        data = b""
        while line := self.rfile.readline():
            size = int(line, 16)
            chunk = self.rfile.read(size + 2)
            if len(chunk) < size + 2:
                break
            assert chunk[size:] == b"\r\n"
            data += chunk[:size]
            if not size:
                return data, True
        return data, False

    def _reply(self) -> None:
        status, headers, text = self.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def server(
    tls: tuple[Path, Path] | None = None, kind: type[Handler] = Handler, **settings: Any
) -> Iterator[tuple[str, type[Handler]]]:
    """A server and its address."""
    handler = type("Told", (kind,), {"arrived": {}, "headers_seen": [], **settings})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            serving.socket = context.wrap_socket(serving.socket, server_side=True)
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        scheme = "https" if tls else "http"
        yield f"{scheme}://127.0.0.1:{serving.server_address[1]}/case/7/web1.lime", handler
        serving.shutdown()


def sha256(data: bytes) -> str:
    done = subprocess.run(["sha256sum"], input=data, capture_output=True, check=True)
    return done.stdout.decode().split()[0]


@pytest.mark.parametrize("exact", [False, True])
def test_an_image_arrives_with_its_length_or_without(exact: bool) -> None:
    data = os.urandom(3_000_001)
    with server() as (url, there):
        options = PLAIN._replace(size=len(data) if exact else 9, exact=exact)
        with open_destination(f"{url}?{SECRET}", options) as place:
            assert (place.file, place.place, place.attaches) == ("web1.lime", url, False)
            place.write(b"")
            for start in range(0, len(data), 700_000):
                place.write(memoryview(data)[start : start + 700_000])
            assert exact or there.arrived == {}  # what has its length is whole with its last byte
            place.commit()
        ((path, arrived),) = there.arrived.items()
        (headers,) = there.headers_seen
    assert path == f"/case/7/web1.lime?{SECRET}"
    assert sha256(arrived) == hashlib.sha256(data).hexdigest()
    assert headers.get("Content-Length") == (str(len(data)) if exact else None)
    assert headers.get("Transfer-Encoding") == (None if exact else "chunked")


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("how", ["abandon", "leave", "kill"])
def test_what_is_not_ended_is_not_kept(exact: bool, how: str) -> None:
    with server() as (url, there):
        if how == "kill":
            process = sender(url, size=2_000_000, exact=exact)
            assert process.stdin and process.stdout
            process.stdout.readline()
            process.stdin.write(bytes(1_000_000))
            process.stdin.flush()
            time.sleep(0.1)
            process.kill()
            process.communicate()
        else:
            with open_destination(url, PLAIN._replace(size=2_000_000, exact=exact)) as place:
                place.write(bytes(1_000_000))
                if how == "abandon":
                    place.abandon()
            assert place.partial == f"nothing is kept at {url}"
        deadline = time.monotonic() + 20
        while not there.headers_seen and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(there.headers_seen) == 1
        assert there.arrived == {}


def test_less_than_was_announced_is_no_image() -> None:
    with server() as (url, there), open_destination(url, PLAIN._replace(size=5, exact=True)) as place:
        place.write(b"abc")
        with pytest.raises(MemdumpError, match="5 bytes were announced and 3 came"):
            place.commit()
        assert there.arrived == {}


XML = (
    b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>X-Amz-Signature=5ec3e7</Message></Error>"
)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            (411, {}, b""),
            r"wants to know the length beforehand \(411 Length Required\); acquire --spool",
        ),
        (
            (501, {}, b"<Code>NotImplemented</Code>"),
            r"wants to know the length beforehand \(501 NotImplemented\)",
        ),
        ((403, {}, XML), r"does not permit it \(403 ExpiredToken\); a signed address expires"),
        ((401, {}, b""), r"does not permit it \(401 Unauthorized\)"),
        ((413, {}, b""), r"the server answers 413 .*; nothing is kept at http"),
        ((500, {}, b""), "the server answers 500 Internal Server Error"),
        ((799, {}, b""), "the server answers 799;"),
        (
            (307, {"Location": f"https://other.example/x?{SECRET}"}, b""),
            r"moved to https://other.example/x \(307 Temporary Redirect\); send it there",
        ),
        ((302, {}, b""), "the server answers 302 Found"),
    ],
)
def test_a_refusal_is_one_clear_line(
    answer: tuple[int, dict[str, str], bytes], said: str, early: bool
) -> None:
    with server(answer=answer, refuse_early=early) as (url, _):
        place = None
        with pytest.raises(MemdumpError, match=said) as told:
            place = open_destination(f"{url}?{SECRET}", PLAIN)
            place.write(b"abc")
            place.commit()
        assert (place is None) == early
    assert SECRET not in str(told.value)
    assert "\n" not in str(told.value)
    assert str(told.value).startswith(f"{url}: ")


def test_a_server_that_refuses_in_the_middle_is_heard() -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.recv(100_000)
        connection.sendall(b"HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(1)
        while connection.recv(1 << 20):
            time.sleep(0.001)
            if time.monotonic() > end:
                return

    end = time.monotonic() + 1
    with listener(refuse) as port, open_destination(f"http://127.0.0.1:{port}/x", PLAIN) as place:
        with pytest.raises(MemdumpError, match=r"the server answers 507|closed the connection"):
            for _ in range(1000):
                place.write(bytes(1 << 20))
        with pytest.raises(MemdumpError, match="the connection is lost"):
            place.write(b"more")
        with pytest.raises(MemdumpError, match="the connection is lost"):
            place.commit()


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 2xx\r\n\r\n", b"\0" * 100_000],
)
def test_without_a_sensible_answer_nothing_is_taken_for_granted(answer: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(100_000)
        connection.sendall(answer)
        connection.shutdown(1)
        while connection.recv(1 << 20):
            pass

    with listener(serve) as port, pytest.raises(MemdumpError, match=rf"^http://127.0.0.1:{port}/x: "):
        put(f"http://127.0.0.1:{port}/x", bytes(1000))


def put(url: str, data: bytes) -> None:
    with open_destination(url, PLAIN) as place:
        place.write(data)
        place.commit()


def test_a_server_that_says_nothing_beforehand_gets_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memdump.machine.http_put._FIRST_WORD", 0.05)

    def serve(connection: socket.socket) -> None:
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += connection.recv(1 << 20)
        assert data.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")

    with listener(serve) as port, open_destination(f"http://127.0.0.1:{port}/x", PLAIN) as place:
        place.write(b"abc")
        place.commit()


def test_nobody_listens() -> None:
    with pytest.raises(MemdumpError, match=r"^http://127.0.0.1:9/x: nobody listens there$"):
        open_destination("http://127.0.0.1:9/x?secret", PLAIN)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://host/", "names no file"),
        ("http://host", "names no file"),
        ("http:///x", "names no file"),
        ("http://host:port/x", "is no address"),
        ("http://[::1/x", "is no address"),
        ("http://me:secret@host/x", r"^http://host/x: an address with a name"),
        ("ftp://host/x?secret", "^ftp: is no way to send an image"),
    ],
)
def test_what_is_no_address_is_told(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as told:
        open_destination(url, PLAIN)
    assert "secret" not in str(told.value)


def test_characters_that_would_break_the_request_are_refused() -> None:
    with server() as (url, there):
        for bad in (" x", "\r\nX: y", "\0"):
            with pytest.raises(MemdumpError):
                open_destination(url + bad, PLAIN)
        assert there.headers_seen == []


def test_over_https_with_a_certificate_of_our_own(tmp_path: Path) -> None:
    mine = certificate(tmp_path, "server", "IP:127.0.0.1")
    alien = certificate(tmp_path, "alien", "IP:127.0.0.1")
    with server(mine) as (url, there):
        with open_destination(url, PLAIN._replace(tls_ca=str(mine[0]))) as place:
            place.write(b"abc")
            place.commit()
        for ca in (None, str(alien[0])):
            with pytest.raises(
                MemdumpError, match=r"its certificate is not accepted: self.*; nothing was sent"
            ):
                open_destination(url, PLAIN._replace(tls_ca=ca))
        assert there.arrived == {"/case/7/web1.lime": b"abc"}
        assert there.headers_seen[0]["Host"] == url.split("/")[2]


def test_the_manifest_finds_no_place_beside_the_image() -> None:
    with (
        server() as (url, _),
        open_destination(url, PLAIN) as place,
        pytest.raises(MemdumpError, match="no place"),
    ):
        place.attach(".json", b"{}")


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (
            f"https://b.s3.amazonaws.com/k/x.lime?X-Amz-Expires=60&{SECRET}",
            "https://b.s3.amazonaws.com/k/x.lime",
        ),
        ("https://me:secret@host:8443/x#secret", "https://host:8443/x"),
        ("HTTPS://host/x?secret\nmore", "HTTPS://host/x"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("/evidence/what?.lime", "/evidence/what?.lime"),
        ("tcp:host:9000", "tcp:host:9000"),
        ("--recipient", "--recipient"),
    ],
)
def test_what_gives_access_is_not_shown(given: str, left: str) -> None:
    assert shown(given) == left
