"""Both ends of a transfer, for tests: senders, receivers and certificates."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SEND = """
import sys, time
from memdump.errors import MemdumpError
from memdump.machine.destination import Options, open_destination
out, pause, options = sys.argv[1], float(sys.argv[2]), eval(sys.argv[3])
with open_destination(out, Options(**options)) as place:
    print("sending", flush=True)
    while data := sys.stdin.buffer.read(256 << 10):
        place.write(data)
        time.sleep(pause)
    place.commit()
    print("committed", flush=True)
    place.attach(".json", b"{}")
print("done", flush=True)
"""


def sender(out: str, pause: float = 0.0, **options: Any) -> subprocess.Popen[bytes]:
    """A process that sends its standard input, with a pause after each 256 KiB."""
    return subprocess.Popen(
        [sys.executable, "-c", SEND, out, str(pause), repr({"name": "web1.lime", **options})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


class Receiver(NamedTuple):
    """``memdump receive`` as a process."""

    process: subprocess.Popen[str]
    port: int

    def end(self) -> tuple[int, str, str]:
        """Wait for it; its status and output."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@contextlib.contextmanager
def receiver(*arguments: str | Path, address: str = "0", **options: Any) -> Iterator[Receiver]:
    """Start ``memdump receive`` on a port that is free."""
    command = [sys.executable, "-m", "memdump", "receive", address, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    try:
        assert process.stderr
        line = process.stderr.readline()
        assert "listening on" in line, line + process.stderr.read()
        yield Receiver(process, int(line.split(",")[0].rsplit(":", 1)[1]))
    finally:
        process.kill()
        process.wait()


def record(kind: bytes, data: bytes = b"") -> bytes:
    """A record as docs/destinations.md has it."""
    return kind + struct.pack(">I", len(data)) + data


def read_record(connection: socket.socket) -> tuple[bytes, bytes]:
    """The next record of a plain socket; empty ones where the connection has ended."""
    head = read(connection, 5)
    if len(head) < 5:
        return b"", b""
    return head[:1], read(connection, struct.unpack(">I", head[1:])[0])


def read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            break
        data += more
    return data


@contextlib.contextmanager
def listener(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port whose first connection is served by a function of the test."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            connection, _ = server.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        yield server.getsockname()[1]
        thread.join(60)
        assert not thread.is_alive()


def certificate(folder: Path, name: str, subject_alt_name: str | None = None) -> tuple[Path, Path]:
    """A certificate that openssl made, signed by itself, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    extension = ["-addext", f"subjectAltName={subject_alt_name}"] if subject_alt_name else []
    openssl("req", "-x509", *_NEW_KEY, "-keyout", key, "-out", cert, "-subj", f"/CN={name}", *extension)
    return cert, key


def signed(folder: Path, name: str, issuer: tuple[Path, Path], subject_alt_name: str) -> tuple[Path, Path]:
    """A certificate that another one signed, and its key."""
    cert, key, wish = folder / f"{name}.pem", folder / f"{name}.key", folder / f"{name}.csr"
    extensions = folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName={subject_alt_name}\n")
    openssl("req", "-new", *_NEW_KEY, "-keyout", key, "-out", wish, "-subj", f"/CN={name}")
    openssl(
        *(
            "x509",
            "-req",
            "-in",
            wish,
            "-CA",
            issuer[0],
            "-CAkey",
            issuer[1],
            "-set_serial",
            str(os.getpid()),
        ),
        *("-extfile", extensions, "-out", cert),
    )
    return cert, key


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
