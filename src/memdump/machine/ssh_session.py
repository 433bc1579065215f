"""Python code of ours, run on another machine over the system's ssh, and the two streams to and from it."""

import collections
import contextlib
import fcntl
import signal
import subprocess
import sys
import threading
import zlib
from typing import IO, Deque, Dict, List, Optional, Sequence, cast

from memdump.errors import MemdumpError, NotPermitted, UsageError

PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(14, 7, -1)), "/usr/libexec/platform-python")
"""What is tried, in this order; the last is where Red Hat keeps one for the system's own use."""

_PROBE = "import sys; sys.exit(sys.version_info < (3, 8))"
_RUN = "import sys,zlib; r=sys.stdin.buffer.read; exec(zlib.decompress(r(int(r(8)))))"
"""Runs what comes in: its length in eight digits, then so many compressed bytes of Python."""
_ALONE = "-ISBc"
"""Python looks at no variables and no packages of the host's, and writes no compiled modules."""
_NO_PYTHON = 41
_ASK_NOTHING = ("-oBatchMode=yes",)
_NOTICE_LOSS = ("-oServerAliveInterval=15", "-oServerAliveCountMax=4")
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ (fcntl.h), which Python names from 3.10 on
_PIPE = 1 << 20
_PATIENCE = 5.0
"""Seconds in which ssh ends after the far end did."""


def command(sudo: Optional[bool]) -> str:
    """Give the command line that runs what comes in, with sudo or without or, by default, where not root.

    Its quotes mean the same to every login shell.
    """
    prefix = {None: '[ "$(id -u)" -eq 0 ] || a="sudo -n"; ', True: 'a="sudo -n"; ', False: ""}[sudo]
    script = (
        f"a=; {prefix}for p in {' '.join(PYTHONS)}; do "
        f'p=$(command -v "$p") && "$p" {_ALONE} "{_PROBE}" 2>/dev/null && exec $a "$p" {_ALONE} "{_RUN}"; '
        f"done; python3 -V >&2; exit {_NO_PYTHON}"
    )
    return f"exec sh -c '{script}'"


def parcel(sources: Dict[str, str], start: str) -> bytes:
    """Give what `command` has to read: these modules, and the statements that start them."""
    text = f"{sources['memdump.machine.in_memory']}\ninstall({sources!r})\n{start}\n"
    packed = zlib.compress(text.encode("utf-8"), 9)
    return b"%08d%s" % (len(packed), packed)


class Session:
    """A running ssh."""

    def __init__(self, destination: str, options: Sequence[str], sudo: Optional[bool]) -> None:
        """Start it; raises `UsageError` where ``destination`` can be none, and where there is no ssh."""
        self.destination = destination
        if not destination or destination.startswith("-"):
            raise UsageError(f"{destination!r} is no host: name it as for ssh, [USER@]HOST")
        attended = sys.stdin is not None and sys.stdin.isatty()
        line = ["ssh", *_as_options(options), *([] if attended else _ASK_NOTHING), *_NOTICE_LOSS]
        self._process = _start([*line, "--", destination, command(sudo)])
        self._to = cast("IO[bytes]", self._process.stdin)
        self._from = cast("IO[bytes]", self._process.stdout)
        with contextlib.suppress(OSError):  # fewer and larger reads
            fcntl.fcntl(self._from, _SET_PIPE_SIZE, _PIPE)
        self._said: Deque[str] = collections.deque(maxlen=20)
        self._listener = threading.Thread(target=self._listen, name="ssh", daemon=True)
        self._listener.start()

    def send(self, data: bytes) -> None:
        """Send all of ``data``; raises `MemdumpError` where the connection is lost."""
        if self._to.closed:  # lost() was here before
            raise self.lost()
        view = memoryview(data)
        try:
            while view:
                view = view[self._to.write(view) :]
        except OSError:
            raise self.lost() from None

    def receive(self, size: int) -> bytearray:
        """Receive so many bytes; raises `MemdumpError` where the connection is lost."""
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = cast("int", self._from.readinto(view))  # type: ignore[attr-defined]
            if not count:
                raise self.lost()
            view = view[count:]
        return data

    def lost(self) -> MemdumpError:
        """Say why the connection ended, in the words of those who know."""
        self._to.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self._listener.join(_PATIENCE)
        status = self._process.returncode
        words = self._said[-1] if self._said else f"ssh ended with status {status}"
        return _explained(self.destination, status, words, list(self._said))

    def close(self) -> None:
        """End it, in the middle of anything."""
        with contextlib.suppress(OSError):
            self._to.close()
        self._from.close()
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(_PATIENCE)

    def _listen(self) -> None:
        with cast("IO[bytes]", self._process.stderr) as stream:
            while True:
                line = stream.readline(1000)
                if not line:
                    return
                words = line.decode("utf-8", "backslashreplace").strip()
                if words:
                    self._said.append(words)


def _as_options(options: Sequence[str]) -> List[str]:
    return [option if option.startswith("-") else f"-o{option}" for option in options]


def _start(line: Sequence[str]) -> "subprocess.Popen[bytes]":
    # A Ctrl-C, or the end of the terminal, is for memdump alone, which then ends in good order; ssh would
    # end at once.  What is blocked here stays so in ssh.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)  # noqa: S603
    except FileNotFoundError:
        raise UsageError("there is no ssh here: install it (Debian's openssh-client)") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _explained(destination: str, status: Optional[int], words: str, said: List[str]) -> MemdumpError:
    if status == _NO_PYTHON:
        way_out = "install one there for now, or take its memory from its hypervisor"
        return MemdumpError(f"{destination} has no Python 3.8 or newer ({words}): {way_out}")
    if any(line.startswith("sudo:") or "sudo: not found" in line for line in said):
        return NotPermitted(
            f"{destination}: {words}; log in as root, or let this user run sudo without a password (NOPASSWD)"
        )
    if "Host key verification failed" in words:
        return NotPermitted(
            f"{destination}: {words} This is not the host that ssh knows by that name, or it knows none yet:"
            f" see what 'ssh {destination}' says"
        )
    if "Permission denied" in words:
        return NotPermitted(f"{destination}: {words}")
    return MemdumpError(f"{destination}: the connection ended: {words}")
