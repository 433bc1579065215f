"""``memdump receive``: the other end of ``memdump acquire tcp:HOST:PORT``."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from memdump.errors import MemdumpError, UsageError
from memdump.machine import custody, wire
from memdump.machine.destination import room
from memdump.machine.output import refuse_existing
from memdump.machine.progress import Progress
from memdump.machine.receiver import BrokenOff, Received, Stranger, receive
from memdump.report.text import visible

if TYPE_CHECKING:
    import argparse
    import ssl
    from collections.abc import Callable, Sequence

SUMMARY = "take an image that another machine sends (acquire tcp:HOST:PORT)"
EXAMPLE = "memdump receive 0.0.0.0:9000 /evidence"

# Whoever reaches the port can write to this machine's disk, so it is opened to others only when asked.
_HERE = "127.0.0.1"
_AT_ONCE = 16
"""Senders; each takes some MiB of memory."""
_SETTLING = 10.0
"""Seconds that what came has to get to the disk when somebody interrupts."""
_LOOK = 0.5
"""Seconds after which what waits looks for a signal: one that came just before the call does not end it."""
INCOMPLETE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "address",
        metavar="[HOST:]PORT",
        help="where to listen: 0.0.0.0:PORT or [::]:PORT for other machines, without a host for this one"
        " alone (the end of a tunnel)",
    )
    parser.add_argument("out", metavar="OUT", help="the folder for what comes, or the file to write")
    parser.add_argument("--keep", action="store_true", help="go on after the first image, until interrupted")
    parser.add_argument("--tls-cert", metavar="FILE", help="take TLS only, and show this certificate (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="its key, where it is not in the same file")
    parser.add_argument(
        "--tls-ca", metavar="FILE", help="take only senders with a certificate that this one signed"
    )


def run(args: argparse.Namespace) -> int:
    """Receive; 0 where all that came is whole, 1 where something is not."""
    target = Path(args.out)
    if args.keep and not target.is_dir():
        raise UsageError(f"{args.out}: is no folder, which several images need")
    if not target.is_dir():
        for name in (args.out, f"{args.out}.part"):
            refuse_existing(name)
        room(target)
    context = _context(args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was received stays as a part
    with _listen(args.address) as listener:
        host, port = listener.getsockname()[:2]
        _say(f"listening on {wire.spell(host, port)}" + ("" if context else ", without TLS"))
        if args.keep:
            return _keep(listener, target, context)
        while True:
            connection, peer = _accept(listener)
            status = _serve(connection, wire.spell(*peer), target, context)
            if status is not None:
                return status


def _context(args: argparse.Namespace) -> ssl.SSLContext | None:
    if not (args.tls_cert or args.tls_key or args.tls_ca):
        return None
    from memdump.machine.tls import Identity

    if not args.tls_cert:
        raise UsageError("who receives over TLS shows a certificate: add --tls-cert FILE")
    return Identity(args.tls_ca, args.tls_cert, args.tls_key).server()


def _listen(text: str) -> socket.socket:
    host, port = wire.address(text, _HERE)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server(found[0][4][:2], family=found[0][0])
    except (OSError, UnicodeError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else "is no name of a host"
        raise UsageError(f"{text}: cannot listen there: {why}") from None


def _accept(listener: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
    """Wait for the next sender; raises ``KeyboardInterrupt`` whenever the signal came."""
    listener.settimeout(_LOOK)
    while True:
        with contextlib.suppress(TimeoutError):
            connection, peer = listener.accept()
            return connection, peer[:2]


def _keep(listener: socket.socket, target: Path, context: ssl.SSLContext | None) -> int:
    """Serve several senders, some at the same time, until interrupted."""
    statuses = [0]
    free = threading.BoundedSemaphore(_AT_ONCE)
    interrupted = threading.Event()

    def serve(connection: socket.socket, peer: str, handle: socket.socket) -> None:
        try:
            statuses.append(_serve(connection, peer, target, context, interrupted) or 0)
        finally:
            handle.close()
            free.release()

    running: list[tuple[threading.Thread, socket.socket]] = []
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            while not free.acquire(timeout=_LOOK):
                pass
            connection, peer = _accept(listener)
            running = [(thread, handle) for thread, handle in running if thread.is_alive()]
            handle = connection.dup()  # TLS makes a new socket of the connection
            arguments = (connection, wire.spell(*peer), handle)
            running.append((threading.Thread(target=serve, args=arguments, daemon=True), handle))
            running[-1][0].start()
    interrupted.set()
    stuck = _break_off(running)
    if stuck:
        _say(f"interrupted; {stuck} that were being received stay as .part files, which nothing records")
    return INCOMPLETE if stuck else max(statuses)


def _break_off(running: Sequence[tuple[threading.Thread, socket.socket]]) -> int:
    """End the connections, so that what came is settled and recorded; gives how many hang on."""
    for _, handle in running:
        with contextlib.suppress(OSError):  # it has ended by itself
            handle.shutdown(socket.SHUT_RDWR)
    end = time.monotonic() + _SETTLING
    for thread, _ in running:
        thread.join(max(end - time.monotonic(), 0))
    return sum(thread.is_alive() for thread, _ in running)


def _serve(
    connection: socket.socket,
    peer: str,
    target: Path,
    context: ssl.SSLContext | None,
    interrupted: threading.Event | None = None,
) -> int | None:
    """Take one image and say how it went; None where nobody had one.

    One of several is told by ``interrupted`` why its connection ends; one alone gets ``KeyboardInterrupt``.
    """
    begun: list[str] = []
    shown: list[Progress] = []

    def started(path: str, size: int) -> Callable[[int], None]:
        _say(f"{peer} sends {path}")
        begun.append(path)
        if interrupted is not None or not size:
            return lambda done: None  # noqa: ARG005
        shown.append(Progress(size))
        return shown[0]

    try:
        received = receive(connection, peer, target, context, started)
    except Stranger as error:
        _say(str(error))
        return None
    except BrokenOff as error:
        _say(str(error))
        why = "interrupted" if interrupted is not None and interrupted.is_set() else "it broke off"
        _enter(error.path, f"from {peer}; {why}", error.sha256)
        return INCOMPLETE
    except MemdumpError as error:
        _say(str(error))
        return INCOMPLETE
    except KeyboardInterrupt:
        if not begun:
            raise
        raise MemdumpError(_interrupted(begun[0], peer)) from None
    finally:
        for progress in shown:
            progress.clear()
    return received and _report(received, peer)


def _interrupted(path: str, peer: str) -> str:
    """Begin the record of what came until somebody interrupted; gives what to say of it."""
    part = f"{path}.part"
    if os.path.lexists(part):
        _enter(part, f"from {peer}; interrupted", None)
        return f"interrupted; what was received stands in {part}"
    # What belongs to it was still to come.
    _enter(path, f"from {peer}; interrupted", None)
    return f"interrupted; {path} is whole, but what belongs to it may not have come"


def _report(received: Received, peer: str) -> int:
    status = 0
    if not received.whole:
        _say(f"{peer} ended before its end; what it sent stands in {received.path}")
        status = INCOMPLETE
    if received.lacks:
        _say(f"{received.path}: what belongs to it did not all come: {received.lacks}")
        status = INCOMPLETE
    if not _enter(received.path, f"from {peer}", received.sha256):
        status = INCOMPLETE
    _say(f"{received.size:,} bytes, SHA-256 {received.sha256}")
    print(visible(received.path), flush=True)
    return status


def _enter(path: str, detail: str, sha256: str | None) -> bool:
    """Begin the record of custody of what was received; whether it could be written."""
    try:
        custody.append(path, "received", detail, sha256)
    except MemdumpError as error:
        _say(str(error))
        return False
    return True


def _say(line: str) -> None:
    print(f"memdump: {visible(line)}", file=sys.stderr, flush=True)
