"""What the sender says over TCP, heard by a plain socket, and what it makes of the answers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest

from memdump.errors import MemdumpError, UsageError
from memdump.machine import wire
from memdump.machine.destination import Options, open_destination
from memdump.machine.tcp import TcpDestination
from tests.machine.peers import listener, read, read_record, record

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
PLAIN = Options("web1.lime.zst", layers=("zstd",), size=7)
READY = record(b"R", b'{"name": "there.lime"}')


def digested(data: bytes) -> bytes:
    return json.dumps({"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}).encode()


def test_the_sender_speaks_as_the_documentation_says() -> None:
    data = os.urandom(3 * MIB + 5)
    heard: list[tuple[bytes, bytes]] = []

    def serve(connection: socket.socket) -> None:
        assert read(connection, 17) == b"memdump stream 2\n"
        heard.append(read_record(connection))
        connection.sendall(READY)
        arrived = b""
        while (found := read_record(connection))[0] == b"D":
            assert len(found[1]) <= MIB
            arrived += found[1]
        heard.append(found)
        connection.sendall(record(b"K", digested(arrived)))
        heard.extend(read_record(connection) for _ in range(4))
        connection.sendall(record(b"K", digested(b"[1,\n2]\n")))
        heard.append(read_record(connection))
        heard.append(read_record(connection))

    with listener(serve) as port, open_destination(f"tcp:localhost:{port}", PLAIN) as place:
        assert place.file == "there.lime"
        assert place.partial == f"what was sent stands in there.lime.part at localhost:{port}"
        buffer = bytearray(data)
        place.write(memoryview(buffer)[:7])
        place.write(memoryview(buffer)[7:])
        buffer[:] = bytes(len(data))
        place.commit()
        place.attach(".json", iter([b"[1,\n", b"2]\n"]))
    assert heard == [
        (b"H", b'{"name": "web1.lime.zst", "layers": ["zstd"], "size": 7, "exact": false, "reserve": 0}'),
        (b"C", digested(data)),
        (b"B", b".json"),
        (b"D", b"[1,\n"),
        (b"D", b"2]\n"),
        (b"F", digested(b"[1,\n2]\n")),
        (b"E", b""),
        (b"", b""),
    ]


def answering(*answers: bytes) -> object:
    """Serve: begin, then give these answers and hear all there is."""

    def serve(connection: socket.socket) -> None:
        read(connection, 17)
        read_record(connection)
        connection.sendall(b"".join(answers))
        connection.shutdown(socket.SHUT_WR)
        try:
            while connection.recv(MIB):
                pass
        except ConnectionResetError:
            pass

    return serve


def test_a_receiver_whose_disk_is_full_lets_the_image_end() -> None:
    def serve(connection: socket.socket) -> None:
        read(connection, 17)
        read_record(connection)
        connection.sendall(READY + record(b"T", b"no room left"))
        arrived = b""
        while (found := read_record(connection))[0] == b"D":
            arrived += found[1]
        assert found == (b"A", digested(arrived))
        assert arrived.endswith(b"the end")
        connection.sendall(record(b"K", digested(arrived)))

    with listener(serve) as port, open_destination(f"tcp:127.0.0.1:{port}", PLAIN) as place:
        deadline = time.monotonic() + 20
        while place.trouble is None and time.monotonic() < deadline:
            place.write(b"abc")
        assert place.trouble == "no room left"
        place.write(b"the end")
        place.abandon()
        place.abandon()


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((), "the connection ended before its time"),
        ((b"HTTP/1.0 400 Bad Request\r\n\r\n",), "sent what memdump does not understand"),
        ((record(b"X", b"\xffgo away\x1b"),), r"the receiver says: \\xffgo away"),
        ((record(b"K", b"{}"),), "sent what memdump does not understand"),
        ((record(b"R", b'{"name": 7}'),), "sent what memdump does not understand"),
        ((record(b"R", b'{"name": "../../x"}'),), "sent what memdump does not understand"),
        ((b"R\xff\xff\xff\xff",), "sent what memdump does not understand"),
    ],
)
def test_a_receiver_that_does_not_take_it_is_told(answers: tuple[bytes, ...], said: str) -> None:
    with listener(answering(*answers)) as port, pytest.raises(MemdumpError, match=said) as told:  # type: ignore[arg-type]
        TcpDestination(f"127.0.0.1:{port}", PLAIN)
    assert str(told.value).startswith(f"127.0.0.1:{port}: ")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "the connection ended before its time"),
        (record(b"X", b"the disk failed"), "the receiver says: the disk failed"),
        (record(b"K", digested(b"abd")), "wrote other bytes than were sent"),
        (record(b"K", b"nonsense"), "sent what memdump does not understand"),
    ],
)
def test_only_an_answer_with_the_right_digest_makes_it_whole(answer: bytes, said: str) -> None:
    def serve(connection: socket.socket) -> None:
        read(connection, 17)
        read_record(connection)
        connection.sendall(READY)
        while read_record(connection)[0] == b"D":
            pass
        connection.sendall(answer)

    with listener(serve) as port, TcpDestination(f"127.0.0.1:{port}", PLAIN) as place:
        place.write(b"abc")
        with pytest.raises(MemdumpError, match=said):
            place.commit()
        place.abandon()
        if answer[:1] != b"K":
            with pytest.raises(MemdumpError, match="the connection is lost"):
                place.attach(".json", b"{}")


def test_a_receiver_that_fails_in_the_middle_says_why() -> None:
    serve = answering(READY, record(b"X", b"the disk failed"))
    with listener(serve) as port, TcpDestination(f"127.0.0.1:{port}", PLAIN) as place:  # type: ignore[arg-type]
        with pytest.raises(MemdumpError, match="the receiver says: the disk failed"):
            for _ in range(1000):
                place.write(bytes(MIB))
        with pytest.raises(MemdumpError, match="the connection is lost"):
            place.write(b"more")
        with pytest.raises(MemdumpError, match="the connection is lost"):
            place.attach(".json", b"{}")


def test_a_connection_that_is_reset_is_told() -> None:
    def serve(connection: socket.socket) -> None:
        read(connection, 17)
        read_record(connection)
        connection.sendall(READY)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    said = "the (connection ended|other side closed)"
    with listener(serve) as port, TcpDestination(f"127.0.0.1:{port}", PLAIN) as place:
        for _ in range(2):
            with pytest.raises(MemdumpError, match=f"^127.0.0.1:{port}: {said}|the connection is lost"):
                for _ in range(1000):
                    place.write(bytes(MIB))


def test_a_connection_that_is_reset_before_a_word_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who expects TLS ends it as soon as the first bytes arrive, while the others are yet to be sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def dial(*_: object) -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", port))
            accepted, _address = server.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()
            return connection

        monkeypatch.setattr(wire, "dial", dial)
        said = "the other side closed the connection; if it listens with TLS, add --tls-ca FILE$"
        with pytest.raises(MemdumpError, match=said):
            open_destination(f"tcp:127.0.0.1:{port}", PLAIN)


def test_a_receiver_that_takes_nothing_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "STALL", 0.3)
    done: list[float] = []

    def serve(connection: socket.socket) -> None:
        read(connection, 17)
        read_record(connection)
        connection.sendall(READY)
        while not done:
            time.sleep(0.01)

    with listener(serve) as port, TcpDestination(f"127.0.0.1:{port}", PLAIN) as place:
        try:
            with pytest.raises(MemdumpError, match=r"does not answer|Connection timed out"):
                for _ in range(1000):
                    place.write(bytes(MIB))
        finally:
            done.append(0)


def test_a_sender_that_has_nothing_to_send_says_that_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PULSE", 0.05)
    heard: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        read(connection, 17)
        read_record(connection)
        connection.sendall(READY)
        while (kind := read_record(connection)[0]) not in (b"C", b""):
            heard.append(kind)
        connection.sendall(record(b"K", digested(b"abcdef")))
        while (kind := read_record(connection)[0]) not in (b"E", b""):
            heard.append(kind)

    with listener(serve) as port, open_destination(f"tcp:127.0.0.1:{port}", PLAIN) as place:
        time.sleep(0.3)  # a sweep
        place.write(b"abc")
        time.sleep(0.3)
        place.write(b"def")
        place.commit()
        time.sleep(0.3)  # a passphrase
    said = b"".join(heard)
    assert re.fullmatch(b"P+DP+DP+", said)
    for thread in threading.enumerate():
        if thread.name == "pulse":
            thread.join(10)
            assert not thread.is_alive()


def test_nothing_follows_half_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = bytearray()

    def serve(connection: socket.socket) -> None:
        read(connection, 17)
        read_record(connection)
        connection.sendall(READY)
        while data := connection.recv(MIB):
            heard.extend(data)

    def send(line: wire.Wire, kind: bytes, data: bytes | memoryview = b"") -> None:
        if kind != b"P":
            return whole(line, kind, data)
        line._socket.sendall(record(kind)[:3])
        line._socket.shutdown(socket.SHUT_RD)  # nobody waits for what the receiver has to say
        raise wire.Broken("does not answer")

    whole = wire.Wire.send
    monkeypatch.setattr(wire.Wire, "send", send)
    monkeypatch.setattr(wire, "PULSE", 0.05)
    with listener(serve) as port, open_destination(f"tcp:127.0.0.1:{port}", PLAIN) as place:
        time.sleep(0.3)  # a sweep
        with pytest.raises(MemdumpError, match="does not answer"):
            place.write(b"abc")
            place.commit()
    assert bytes(heard) == record(b"P")[:3]


def test_a_machine_that_is_gone_is_noticed_by_the_system() -> None:
    with socket.socket() as connection:
        wire.keep_alive(connection)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        for name, most in (("TCP_KEEPIDLE", 60), ("TCP_USER_TIMEOUT", 180_000)):
            assert 0 < connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) <= most


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":9", "host:x", "::1:9", "host:65536", "host:99999999"]
)
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(address)) + " is no address"):
        open_destination(f"tcp:{address}", PLAIN)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "a..b"])
def test_a_host_that_is_not_known_is_one_line(host: str) -> None:
    with pytest.raises(MemdumpError, match=rf"^{re.escape(host)}:9: "):
        open_destination(f"tcp:{host}:9", PLAIN)


def test_a_key_without_its_certificate_and_files_that_are_none(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    for options, said in (
        ({"tls_key": str(junk)}, "needs its certificate"),
        ({"tls_ca": str(junk)}, "junk.pem: is not in PEM form"),
        ({"tls_cert": str(junk)}, "junk.pem: is not in PEM form"),
        ({"tls_ca": str(tmp_path / "none")}, "none: No such file"),
        ({"tls_ca": str(tmp_path)}, "Is a directory"),
    ):
        with pytest.raises(UsageError, match=said):
            open_destination("tcp:127.0.0.1:9", PLAIN._replace(**options))  # type: ignore[arg-type]
