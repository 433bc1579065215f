"""Whatever comes over the wire: records, or an error, and never a file that looks whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memdump.errors import MemdumpError
from memdump.machine import receiver, wire

HELLO = json.dumps({"name": "a.lime", "layers": [], "size": 0, "exact": False, "reserve": 0}).encode()
PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.just(HELLO),
    st.just(b".json"),
    st.builds(
        lambda data: json.dumps({"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}).encode(),
        st.sampled_from([b"", b"abc", b"abcabc"]),
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ).map(lambda value: json.dumps(value).encode()),
)
RECORDS = st.builds(
    lambda kind, data: kind + struct.pack(">I", len(data)) + data,
    st.sampled_from([b"H", b"D", b"C", b"A", b"B", b"F", b"E", b"P", b"R", b"?"]),
    PAYLOADS,
)


def ended(sent: list[bytes]) -> bool:
    """Whether these records are an image and its end, by a reading of the rules that is not memdump's."""
    data = b""
    if not sent or sent[0] != b"H" + struct.pack(">I", len(HELLO)) + HELLO:
        return False
    for record in sent[1:]:
        kind, payload = record[:1], record[5:]
        if kind == b"P" and not payload:
            continue
        if kind == b"D":
            data += payload
            continue
        try:
            told = json.loads(payload)
            return (
                kind == b"C"
                and told["size"] == len(data)
                and told["sha256"] == hashlib.sha256(data).hexdigest()
            )
        except (ValueError, TypeError, KeyError):
            return False
    return False


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]


def hear_all(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(1 << 16):
            pass


@settings(deadline=None, max_examples=200)
@given(
    begin=st.sampled_from([b"", wire.MAGIC, wire.MAGIC[:5], b"memdump stream 9\n"]),
    records=st.lists(RECORDS, max_size=6),
    hello=st.booleans(),
    cut=st.integers(0, 3),
)
def test_a_name_appears_only_behind_a_whole_stream(
    begin: bytes, records: list[bytes], hello: bool, cut: int
) -> None:
    if hello:
        records = [b"H" + struct.pack(">I", len(HELLO)) + HELLO, *records]
    stream = b"".join(records)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = connected()
        with ours:
            ours.sendall(begin + stream[: len(stream) - cut])
            ours.shutdown(socket.SHUT_WR)
            # The other end hears all answers: the receiver waits for that.
            drain = threading.Thread(target=hear_all, args=(ours,))
            drain.start()
            found = None
            try:
                found = receiver.receive(
                    theirs, "peer", Path(folder), None, lambda path, size: lambda done: None
                )
            except MemdumpError as error:
                assert "\n" not in str(error)
            drain.join(20)
        names = {path.name for path in Path(folder).iterdir()}
        assert names <= {"a.lime", "a.lime.part", "a.lime.json"}
        whole = begin == wire.MAGIC and ended(records if not cut else whole_records(records, cut))
        assert ("a.lime" in names) == whole
        assert bool(found and found.whole) == whole


def whole_records(records: list[bytes], cut: int) -> list[bytes]:
    """Those that are left whole when bytes are cut off the end."""
    left = list(records)
    while left and cut > 0:
        cut -= len(left.pop())
    return left


@given(st.binary(max_size=200))
def test_any_bytes_are_records_or_broken(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        line = wire.Wire(theirs, "peer")
        taken = 0
        with pytest.raises(wire.Broken):
            while True:
                record = line.receive()
                assert data[taken : taken + 1] == record.kind
                assert data[taken + 5 : taken + 5 + len(record.data)] == record.data
                taken += 5 + len(record.data)


@given(st.binary(max_size=100))
def test_any_json_has_the_fields_or_is_broken(data: bytes) -> None:
    try:
        found = wire.unpack(bytearray(data), "peer", size=int)
    except wire.Broken:
        return
    assert type(found["size"]) is int


@given(host=st.sampled_from(["host", "192.0.2.1", "2001:db8::1"]), port=st.integers(0, 65535))
def test_an_address_is_read_as_it_is_written(host: str, port: int) -> None:
    assert wire.address(wire.spell(host, port)) == (host, port)


def test_what_comes_early_is_seen_without_waiting() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = wire.Wire(theirs, "peer")
        assert not line.waiting()
        ours.sendall(wire.TROUBLE + struct.pack(">I", 2) + b"no")
        assert line.waiting()
        assert line.waiting()
        assert line.receive() == wire.Record(wire.TROUBLE, bytearray(b"no"))
        assert not line.waiting()
        ours.close()
        assert line.waiting()
        with pytest.raises(wire.Broken, match="peer: the connection ended before its time"):
            line.receive()
