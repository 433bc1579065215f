"""PostgreSQL and nginx as Debian has them, and a load for each; nothing of the machine's own is touched."""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.lab import kernels

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE = 30
_NOBODY = "nobody"
_LIBRARIES = ("usr/lib/*-linux-gnu", "lib/*-linux-gnu")


class Load(NamedTuple):
    """What clients saw of a server."""

    answered: int
    errors: int
    seconds: float
    longest: float
    """Seconds that one client waited for its answer, at most."""

    def __str__(self) -> str:
        rate = self.answered / self.seconds
        return f"{rate:,.0f} per second, {self.errors} errors, longest gap {self.longest * 1e3:,.1f} ms"


class Program(NamedTuple):
    """Where a program of a package is, and what it needs around it."""

    path: Path
    environment: dict[str, str]
    root: Path | None
    """The folder that its package was unpacked to; none where it is installed."""


@functools.cache
def program(pattern: str) -> Program:
    """Find a server's program: installed, or else unpacked from its package.  Raises `cache.NoLab`."""
    installed = sorted(Path("/").glob(pattern))
    if installed:
        return Program(installed[-1], dict(os.environ), None)
    root = kernels.get_packages("servers", ["postgresql", "nginx"])
    path = max(root.glob(pattern))
    libraries = [str(folder) for wanted in _LIBRARIES for folder in root.glob(wanted)]
    return Program(path, {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}, root)


@contextlib.contextmanager
def _place() -> Iterator[Path]:
    """Give a folder with a short name, for sockets, that the server's user may enter."""
    with tempfile.TemporaryDirectory(prefix="memdump-server-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def wait_for(what: str, condition: Any) -> None:
    """Wait until something holds; fails where it never does."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The children of a process, as the kernel counts them: all of them, however they were made."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(word) for word in task.read_text().split()]
    return sorted(found)


def status(pid: int, key: str) -> str:
    """One line of ``/proc/PID/status``."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{key}:\s+(.*)$", text, re.MULTILINE)
    return found[1] if found else ""


class PostgreSQL:
    """A server with a database of accounts, of pgbench."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = program("usr/lib/postgresql/*/bin/postgres")
        self.binary = found.path
        self._environment = found.environment
        # It does not run as root.
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam(_NOBODY)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            if found.root:  # which may be where only root comes to
                shutil.copytree(found.root, folder / "root", symlinks=True)
                (folder / "root").chmod(0o755)
                self.binary = folder / "root" / found.path.relative_to(found.root)
                self._environment = {
                    name: value.replace(str(found.root), str(folder / "root"))
                    for name, value in found.environment.items()
                }
        self._log = (folder / "log").open("wb")
        self.process: subprocess.Popen[bytes] | None = None

    def _run(self, name: str, *words: object) -> str:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [str(self.binary.with_name(name)), *map(str, words)],
            capture_output=True,
            text=True,
            env=self._environment,
            cwd=self.folder,
            timeout=120,
            **self._as,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        """Make the database and serve it."""
        data = self.folder / "data"
        self._run("initdb", "-D", data, "-A", "trust", "-U", "tester", "-E", "UTF8", "--locale=C", "-N")
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "shared_buffers": "32MB",  # more than is read while the processes stand
            "fsync": "off",
            "autovacuum": "off",  # its workers come and go
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.process = subprocess.Popen(
            [str(self.binary), "-D", str(data), *words],
            stdout=self._log,
            stderr=self._log,
            env=self._environment,
            cwd=self.folder,
            **self._as,
        )
        wait_for("PostgreSQL does not start", self._is_ready)
        self._run("pgbench", *self._where, "-i", "-q", "-s", 4, "postgres")

    def _is_ready(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(AssertionError):
            return self.query("SELECT 1") == "1"
        return False

    @property
    def _where(self) -> tuple[str, ...]:
        return ("-h", str(self.folder), "-U", "tester")

    def query(self, text: str) -> str:
        """What the server answers; the process that did is gone then."""
        words = ["psql", *self._where, "-XAtq", "-c", "SELECT pg_backend_pid()", "-c", text, "postgres"]
        backend, _, answer = self._run(*words).partition("\n")
        wait_for("a process of PostgreSQL does not end", lambda: int(backend) not in children(self.pid))
        return answer.strip()

    def log(self) -> str:
        """What the server has said."""
        return (self.folder / "log").read_text()

    @property
    def pid(self) -> int:
        """The one that all others are children of."""
        assert self.process
        return self.process.pid

    def everyone(self) -> list[int]:
        """All processes of the server."""
        return sorted([self.pid, *children(self.pid)])

    def backend(self) -> int:
        """A process that serves a client."""
        own = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench' LIMIT 1"
        return int(self.query(own))

    @contextlib.contextmanager
    def load(self, name: str, into: list[Load]) -> Iterator[None]:
        """Have some clients move money all the while."""
        words = [*self._where, "-n", "-c", "6", "-j", "2", "-T", "600", "-l", f"--log-prefix={name}"]
        started = time.monotonic()
        with subprocess.Popen(
            [str(self.binary.with_name("pgbench")), *words, "postgres"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            cwd=self.folder,
            **self._as,
        ) as clients:
            try:
                wait_for("the clients do not come", lambda: self._clients() == 6)
                yield
            except BaseException:
                clients.kill()
                raise
            clients.send_signal(signal.SIGALRM)  # the time is over, for pgbench
            said, complained = clients.communicate(timeout=60)
        assert clients.returncode == 0, complained
        into.append(self._result(name, time.monotonic() - started, said, complained))

    def _clients(self) -> int:
        return int(self.query("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'"))

    def _result(self, name: str, seconds: float, said: str, complained: str) -> Load:
        answered = re.search(r"transactions actually processed: (\d+)", said)
        failed = re.search(r"failed transactions: (\d+)", said)  # from release 15 on
        assert answered, said
        errors = int(failed[1]) if failed else 0
        errors += len(re.findall(r"error|abort|terminat", complained, re.IGNORECASE))
        longest = 0
        for path in self.folder.glob(f"{name}.*"):
            # The third word of a line is how long the transaction took, in microseconds.
            longest = max(longest, *(int(line.split()[2]) for line in path.read_text().splitlines()), 0)
        return Load(int(answered[1]), errors, seconds, longest / 1e6)

    def stop(self) -> int:
        """Shut down as an administrator would; gives the exit status."""
        assert self.process
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(_PATIENCE)

    def close(self) -> None:
        """Leave nothing running."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)  # it ends its children
            self.process.wait(_PATIENCE)
        self._log.close()


@contextlib.contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A server that runs until the block ends.  Raises `cache.NoLab`."""
    with _place() as folder:
        server = PostgreSQL(folder)
        try:
            server.start()
            yield server
        finally:
            server.close()


_CONFIGURATION = """
daemon off;
{user}
worker_processes 2;
pid {folder}/pid;
error_log {folder}/log warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    keepalive_requests 10000000;
    {temporary}
    server {{
        listen 127.0.0.1:{port};
        root {folder}/www;
    }}
}}
"""
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Nginx:
    """A server of one file."""

    def __init__(self, folder: Path) -> None:
        found = program("usr/sbin/nginx")
        self.binary = found.path
        self.folder = folder
        self.content = os.urandom(100_000)
        self.port = _free_port()
        (folder / "www").mkdir()
        (folder / "www/file").write_bytes(self.content)
        user = f"user {_NOBODY} nogroup;" if os.geteuid() == 0 else ""
        temporary = " ".join(f"{name}_temp_path {folder}/{name};" for name in _TEMPORARY)
        (folder / "conf").write_text(
            _CONFIGURATION.format(user=user, folder=folder, temporary=temporary, port=self.port)
        )
        self.process = subprocess.Popen(
            [str(self.binary), "-e", "stderr", "-p", str(folder), "-c", str(folder / "conf")],
            env=found.environment,
            stderr=(folder / "complaints").open("wb"),
        )

    def answers(self) -> bool:
        """Whether a new client is served."""
        assert self.process.poll() is None, (self.folder / "complaints").read_text()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/file")
            return connection.getresponse().read() == self.content
        except OSError:
            return False
        finally:
            connection.close()

    def workers(self) -> list[int]:
        """The processes that serve."""
        return children(self.process.pid)

    def log(self) -> str:
        """What it complained of."""
        return (self.folder / "log").read_text() + (self.folder / "complaints").read_text()

    @contextlib.contextmanager
    def load(self, into: list[Load]) -> Iterator[None]:
        """Have some clients ask again and again, each over one connection."""
        over = threading.Event()
        clients = [_Client(self, over) for _ in range(4)]
        started = time.monotonic()
        try:
            for one in clients:
                one.start()
            yield
        finally:
            over.set()
            for one in clients:
                one.join(_PATIENCE)
        into.append(
            Load(
                sum(one.answered for one in clients),
                sum(one.errors for one in clients),
                time.monotonic() - started,
                max(one.longest for one in clients),
            )
        )

    def stop(self) -> int:
        """Shut down as an administrator would; gives the exit status."""
        self.process.send_signal(signal.SIGQUIT)
        return self.process.wait(_PATIENCE)

    def close(self) -> None:
        """Leave nothing running."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(_PATIENCE)


class _Client(threading.Thread):
    def __init__(self, server: Nginx, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._over = over
        self.answered = self.errors = 0
        self.longest = 0.0

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=10)
        before = time.monotonic()
        while not self._over.is_set():
            try:
                connection.request("GET", "/file")
                whole = connection.getresponse().read() == self._server.content
                # http.client would make a connection anew that the server has closed, in silence.
                whole = whole and connection.sock is not None
            except (OSError, http.client.HTTPException):
                connection.close()
                whole = False
            self.answered += whole
            self.errors += not whole
            now = time.monotonic()
            self.longest, before = max(self.longest, now - before), now
        connection.close()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextlib.contextmanager
def nginx() -> Iterator[Nginx]:
    """A server that runs until the block ends.  Raises `cache.NoLab`."""
    with _place() as folder:
        server = Nginx(folder)
        try:
            wait_for("nginx does not answer", server.answers)
            yield server
        finally:
            server.close()
