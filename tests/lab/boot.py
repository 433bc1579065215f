"""One guest: virtme-ng boots a kernel under QEMU's own emulation, and this end talks to it.

Emulation (TCG), because it runs everywhere; acceleration hangs on nested virtualisation and is never tried.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab import cache, disks

if TYPE_CHECKING:
    from types import TracebackType

    from tests.lab.kernels import Kernel

CPU = "max,-erms,-fsrm,-smap,-avx,-avx2,-xsave"
"""All that QEMU emulates, so five-level paging too, but what it emulates badly: string moves byte by byte,
fences around accesses to user memory, long vectors.  Without them a guest copies memory three times as fast
and digests it twice as fast.  The short vectors stay: kernels take it that a processor with AES has them."""

ACCELERATOR = "tcg,thread=single"
"""With a host thread for each processor, a kernel that patches its own code now and then executes half of the
patch on the other processor, and panics."""

PATIENCE = 400.0
"""Seconds to wait for a word of the guest; a busy machine may take ten times as long as an idle one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a guest."""

    name: str
    kernel: str
    four_level: bool
    scenario: str = "scenario"
    memory: str = "512M"
    devices: str = ""
    """Further options of QEMU."""
    accelerator: str = ACCELERATOR
    processor: str = CPU
    emulator: str = ""
    """The path of QEMU, if not the one on PATH."""
    options: str = ""
    """Further words of the kernel's command line."""


class Guest:
    """A booted guest, until the block is left."""

    def __init__(self, recipe: Recipe, kernel: Kernel, carried: Path, log: Path) -> None:
        self.log = log
        self.sockets = Path(tempfile.mkdtemp(prefix="memdump-lab-"))  # a socket's path must be short
        self.qmp_path = self.sockets / "qmp"
        """A second monitor, for whoever wants one: each takes one connection at a time."""
        self._process = self._start(recipe, kernel, carried)
        try:
            self._line = self._connect("line")
            self.monitor = Monitor(self._connect("monitor"))
        except BaseException:
            self._kill()
            raise

    def _start(self, recipe: Recipe, kernel: Kernel, carried: Path) -> subprocess.Popen[bytes]:
        scripts = sysconfig.get_path("scripts")
        search = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
        emulator = recipe.emulator or cache.tool("qemu-system-x86_64", "qemu-system-x86")
        cache.tool("busybox", "busybox-static")
        vng = shutil.which("vng", path=search)
        if not vng:
            raise cache.NoLab("vng is not installed: pip install 'memdump[lab]'")
        command = [vng, "--verbose", "--run", str(kernel.image), "--disable-kvm", "--force-9p"]
        command += ["--qemu", emulator, "--name", "victim", "--user", "root", "--cwd", "/"]
        command += [
            "--memory",
            recipe.memory,
            "--cpus",
            "2",
            *(["--append", "no5lvl"] if recipe.four_level else []),
            *(["--append", recipe.options] if recipe.options else []),
        ]
        command += ["--root-disk", str(disks.root()), "--root-fstype", "ext4"]
        inside = f"{disks.PYTHON} -m tests.lab.inside.main {recipe.scenario}"
        command += ["--exec", f"mount /dev/vdb /lab && cd /lab && exec {inside}"]
        machine = f"-accel {recipe.accelerator} -cpu {recipe.processor}"
        command += [f"--qemu-opts={machine} {self._devices(carried)} {recipe.devices}"]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, "PATH": search},
                start_new_session=True,
            )

    def _devices(self, carried: Path) -> str:
        return (
            "-device vmcoreinfo "
            f"-drive file={carried},format=raw,if=virtio,cache=unsafe,discard=unmap "
            f"-chardev socket,id=line,path={self.sockets}/line,server=on,wait=off -serial chardev:line "
            f"-qmp unix:{self.sockets}/monitor,server=on,wait=off "
            f"-qmp unix:{self.qmp_path},server=on,wait=off -pidfile {self.sockets}/pid"
        )

    def _connect(self, name: str) -> socket.socket:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(str(self.sockets / name))
                connection.settimeout(PATIENCE)
                return connection
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise cache.NoLab(f"QEMU did not start; see {self.log}: {self._last_words()}")
            time.sleep(0.05)

    def ask(self, word: str, answer: str) -> str:
        """Have the guest do something, and return what it says of it after the word ``answer``."""
        self._line.sendall(word.encode() + b"\n")
        return self.hear(answer)

    def hear(self, expected: str) -> str:
        """Wait for a line that begins with ``expected`` and return what follows it."""
        heard = b""
        try:
            while not heard.endswith(b"\n"):
                byte = self._line.recv(1)
                if not byte:
                    raise RuntimeError(f"the guest went away; see {self.log}: {self._last_words()}")
                heard += byte
        except TimeoutError:
            raise RuntimeError(f"the guest says nothing; see {self.log}: {self._last_words()}") from None
        word, _, rest = heard.decode().strip().partition(" ")
        if word != expected:
            raise RuntimeError(
                f"the guest says {heard!r}, not {expected}; see {self.log}: {self._last_words()}"
            )
        return rest

    @property
    def pid(self) -> int:
        """The process of QEMU."""
        return int((self.sockets / "pid").read_text())

    def dump(self, target: Path, **options: Any) -> None:
        """Have QEMU write the guest's memory while the guest stands still."""
        self.monitor.ask("dump-guest-memory", paging=False, protocol=f"file:{target}", **options)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " | ".join(lines[-5:])

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self.sockets, ignore_errors=True)

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self.monitor.ask("quit")
            self._process.wait(10)
        self._line.close()
        self._kill()


class Monitor:
    """QEMU's machine protocol (QMP), as far as it is needed here."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rw")
        self._stream.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its result; raises `RuntimeError` with QEMU's words."""
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while True:
            line = self._stream.readline()
            if not line:
                raise RuntimeError(f"QEMU went away during {command}")
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(f"QEMU: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
