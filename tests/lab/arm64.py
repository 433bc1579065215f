"""A guest with arm64 processors, in which processes are taken while they run, and then all of its memory.

It has neither disks nor a network: its system, made of Debian's packages for arm64, is what the kernel finds
in memory when it begins, and what it leaves comes back through a port, the image of its memory through
another.  ``python -m tests.lab.arm64`` makes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdump.machine import bundle
from tests.lab import boot as booting
from tests.lab import cache, devicetree, gdbstub, guests, kernels
from tests.lab.boot import Recipe
from tests.lab.disks import USELESS
from tests.process.targets import CALLS, WAITING_FOR_ALL

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
SOURCE = HERE.parent.parent / "src" / "memdump"
PROGRAMS = HERE.parent / "process" / "targets"
KERNEL, EMULATOR = "6.12-arm64", "qemu-system-aarch64"
PORT, WIRE = "/dev/vport0p1", "/dev/vport0p2"
"""Where the guest writes to what goes back, and what leads to ``memdump receive``."""
LINE = "/dev/ttyS0"
"""Where it hears what to do, and answers."""
RETURN_1 = bytes.fromhex("20 00 80 52 c0 03 5f d6")
"""mov w0, #1; ret: what a kernel without CONFIG_STRICT_DEVMEM says of each page of /dev/mem."""
PACKAGES = ["python3", "busybox-static", "gdb-minimal"]
TARGETS = ("blocked", "counting", "deep", "pattern", "signals")
PATIENCE = 900
MEMORY = "768M"
HOLE = (0x60000000, 0x203000)
"""Address and size of memory that the kernel may not map, as firmware keeps some on real machines."""

INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin:/usr/sbin:/sbin PYTHONPATH=/lab/src:/lab
# Without the processor's instructions for it, OpenSSL hashes twice as fast in emulation.
export OPENSSL_armcap=0
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ip link set lo up
echo 100 > /proc/sys/net/ipv4/tcp_syn_retries
ulimit -c unlimited
python3 -m tests.lab.inside.main arm64 {line}
poweroff -f
"""


@dataclasses.dataclass(frozen=True)
class Made(guests.Made):
    """What the guest has left."""

    system: Path
    """Its libraries, for a debugger."""

    @cached_property
    def told(self) -> dict[str, Any]:
        """What was seen in it (`tests.lab.inside.arm64`)."""
        told: dict[str, Any] = json.loads((self.folder / "told.json").read_text())
        return told

    def program(self, name: str) -> Path:
        """A program that ran in it."""
        return self.folder / "targets" / name


def get() -> Made:
    """The guest from the cache, else booted now; raises `cache.NoLab` where that cannot be."""
    found = compiler()
    kernel = kernels.get(KERNEL)
    system = kernels.get_packages("arm64", PACKAGES, architecture="arm64")
    target = cache.folder() / "guests" / "arm64"
    with cache.locked(target):
        key = _key(kernel)
        stamp = target / "made-from"
        keep = os.environ.get("MEMDUMP_LAB_KEEP") == "1"
        if not stamp.exists() or (stamp.read_text() != key and not keep):
            with cache.made_whole(target) as folder:
                _compile(found, folder / "targets")
                with _scratch() as room:
                    _fill(room / "root", system, folder / "targets")
                    _make(room / "root", folder)
                (folder / "made-from").write_text(key)
    return Made("arm64", target, system)


def compiler() -> str:
    """The path of a compiler for arm64; raises `cache.NoLab`."""
    return cache.tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross")


def _compile(compiler: str, folder: Path) -> None:
    folder.mkdir()
    options = ["-g", "-O1", "-pthread"]
    for name in TARGETS:
        _call(compiler, *options, PROGRAMS / f"{name}.c", "-o", folder / name)
    vectors = "arm64_vectors"
    _call(compiler, *options, "-march=armv8-a+sve", PROGRAMS / f"{vectors}.c", "-o", folder / vectors)


def boot(root: Path, folder: Path, console: Path) -> None:
    """Boot a guest whose system is what is in ``root``, and unpack what it writes to its `PORT`.

    That is a packed archive, which goes to ``folder``.  The guest has to end by itself.  Raises `cache.NoLab`
    where it cannot be booted, and ``RuntimeError`` where nothing comes back.
    """
    with _scratch() as room:
        try:
            _call(*_command(root, room), "-serial", f"file:{console}")
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"an arm64 guest does not end: {_last_words(console)}") from None
        _unpack(room, folder, console)


def _command(root: Path, room: Path) -> list[str]:
    """The words that boot a guest; what it leaves comes to a file in ``room``."""
    command = [cache.tool(EMULATOR, "qemu-system-arm"), "-M", "virt", "-cpu", "max,pauth-impdef=on"]
    command += ["-smp", "2", "-m", MEMORY, "-accel", "tcg,thread=single", "-nographic", "-no-reboot"]
    command += ["-nodefaults"]
    described = room / "machine.dtb"
    _call(*command, "-machine", f"dumpdtb={described}")
    described.write_bytes(devicetree.with_hole(described.read_bytes(), *HOLE))
    command += ["-dtb", str(described), "-kernel", str(kernels.get(KERNEL).image)]
    _pack(root, room / "root.cpio")
    command += ["-initrd", str(room / "root.cpio"), "-append", "console=ttyAMA0 quiet panic=-1"]
    command += ["-device", "virtio-serial-pci", "-chardev", f"file,id=out,path={room / 'out.tar.gz'}"]
    return [*command, "-device", "virtserialport,chardev=out"]


def _unpack(room: Path, folder: Path, console: Path) -> None:
    try:
        with tarfile.open(room / "out.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    except (OSError, EOFError, tarfile.TarError) as error:
        raise RuntimeError(f"an arm64 guest left nothing: {error}: {_last_words(console)}") from None


def _last_words(console: Path) -> str:
    return " | ".join(console.read_text(errors="replace").splitlines()[-5:])


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for what is needed while a guest runs."""
    with tempfile.TemporaryDirectory(prefix="memdump-arm64-", dir=cache.folder()) as folder:
        yield Path(folder)


class Guest(booting.Guest):
    """A guest that does what it is asked for, and monitors of its QEMU."""

    def __init__(self, root: Path, room: Path, log: Path) -> None:
        self._words = _command(root, room)
        recipe = Recipe("arm64", KERNEL, four_level=False, memory=MEMORY)
        super().__init__(recipe, kernels.get(KERNEL), room, log)
        self._line.settimeout(PATIENCE)

    def _start(self, recipe: Recipe, kernel: kernels.Kernel, carried: Path) -> subprocess.Popen[bytes]:
        command = [*self._words, "-name", "victim", "-serial", "stdio", "-device", "pci-serial,chardev=line"]
        command += ["-chardev", f"socket,id=line,path={self.sockets}/line,server=on,wait=off"]
        command += ["-qmp", f"unix:{self.sockets}/monitor,server=on,wait=off"]
        command += ["-qmp", f"unix:{self.qmp_path},server=on,wait=off", "-pidfile", f"{self.sockets}/pid"]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )


def _make(root: Path, folder: Path) -> None:
    """Boot the guest, have processes and then its memory taken, and leave all that in ``folder``."""
    began = time.monotonic()
    times = {}

    def note(what: str) -> None:
        times[what] = round(time.monotonic() - began, 1)

    with _scratch() as room, Guest(root, room, folder / "console.log") as guest:
        guest.hear("ready")
        note("ready")
        guest.dump(folder / "memory.elf")
        note("dumped")
        _receive(guest, folder)
        note("acquired")
        guest.dump(folder / "later.elf")
        compared = guest.ask("sources", "compared")
        note("compared")
        gdbstub.write(guest, int(guest.ask("find devmem_is_allowed", "found"), 16), RETURN_1)
        guest.dump(folder / "latest.elf")
        read = guest.ask("devmem", "read")
        note("read")
        guest.monitor.ask("stop")
        guest.dump(folder / "last.elf")
        _take_from_outside(guest, folder)
        guest.monitor.ask("cont")
        note("taken from outside")
        guest.ask("do send", "did")
        note("sent")
        _unpack(room, folder, folder / "console.log")
    if compared != "0":
        raise RuntimeError(f"the sources could not be compared: {(folder / 'sources.log').read_text()}")
    if read != "0":
        raise RuntimeError(f"/dev/mem could not be read: {(folder / 'devmem.log').read_text()}")
    for image in ("memory.elf", "memory.lime", "later.elf", "latest.elf", "last.elf"):
        guests.make_sparse(folder / image)
    note("made")
    (folder / "times.json").write_text(json.dumps(times))


def _receive(guest: booting.Guest, folder: Path) -> None:
    """Have the guest send its memory to ``memdump receive`` here; raises ``RuntimeError``."""
    command = [sys.executable, "-m", "memdump", "receive", "127.0.0.1:0", str(folder / "memory.lime")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as receiver:
        assert receiver.stderr
        try:
            port = receiver.stderr.readline().partition(",")[0].rpartition(":")[2]
            address = {"type": "inet", "data": {"host": "127.0.0.1", "port": port}}
            backend = {"type": "socket", "data": {"addr": address, "server": False}}
            guest.monitor.ask("chardev-add", id="wire", backend=backend)
            guest.monitor.ask("device_add", driver="virtserialport", chardev="wire")
            status = guest.ask("do acquire", "did")
            _, said = receiver.communicate(timeout=60)
        finally:
            receiver.kill()
    if (status, receiver.returncode) != ("0", 0):
        raise RuntimeError(f"the memory did not arrive: status {status} of who sent it; {said.strip()}")


def _take_from_outside(guest: booting.Guest, folder: Path) -> None:
    """Take the memory of the guest, which stands still, through QEMU, and seal it."""
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], check=True)
    command = [sys.executable, "-m", "memdump", "acquire", str(folder / "outside.lime.zst.age")]
    command += ["--source", f"qemu:{guest.qmp_path}", "--recipient", f"{key}.pub"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"not taken from outside, status {done.returncode}: {done.stderr.strip()}")


def _pack(root: Path, image: Path) -> None:
    """Make the archive that the kernel unpacks into its memory."""
    for name in ("proc", "sys", "dev"):
        (root / name).mkdir(exist_ok=True)
    names = "\0".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    with image.open("wb") as file:
        cpio = [cache.tool("cpio", "cpio"), "--create", "--format=newc", "--quiet", "--null"]
        subprocess.run(cpio, cwd=root, input=names.encode(), stdout=file, check=True)


def _fill(root: Path, system: Path, targets: Path) -> None:
    """Put into ``root`` what the guest needs to take processes and its memory."""

    def useless(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(system)
        return {name for name in names if USELESS.match(f"/{inside / name}/")}

    shutil.copytree(system, root, symlinks=True, ignore=useless)
    for name in ("tmp", "run", "lab/out"):
        (root / name).mkdir(parents=True, exist_ok=True)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SOURCE, root / "lab" / "src" / "memdump", ignore=ignore)
    shutil.copytree(HERE / "inside", root / "lab" / "tests" / "lab" / "inside", ignore=ignore)
    shutil.copytree(targets, root / "lab" / "targets")
    (root / "lab" / "memdump-agent.pyz").write_bytes(bundle.program())
    (root / "lab" / "calls.json").write_text(json.dumps([*CALLS, *WAITING_FOR_ALL]))
    _precompile(root)
    (root / "init").write_text(INIT.format(line=LINE))
    (root / "init").chmod(0o755)


def _precompile(root: Path) -> None:
    """Compile what Python runs there, which takes the guest a while; with another Python it has to."""
    library = root / "usr/lib" / f"python3.{sys.version_info.minor}"
    if library.is_dir():
        words = [sys.executable, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
        # What is not asked for and cannot be compiled is none of our business.
        subprocess.run([*words, "-r", "1", library], stdout=subprocess.DEVNULL, check=False)
        _call(*words, root / "lab")


def _call(*command: object) -> None:
    done = subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise cache.NoLab(f"{command[0]} failed: {said[-1] if said else done.returncode}")


def _key(kernel: kernels.Kernel) -> str:
    """A digest of all that it comes from."""
    digest = hashlib.sha256(kernel.release.encode())
    parts = [SOURCE / part for part in (*guests.ACQUISITION, "cli", "process", "seal.py")]
    parts += [HERE / name for name in ("inside", "boot.py", "gdbstub.py", "devicetree.py", "arm64.py")]
    for part in [*parts, PROGRAMS]:
        for file in sorted(part.rglob("*.[pc]*")) if part.is_dir() else [part]:
            if file.suffix in (".py", ".c"):
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def main() -> int:
    """Make it, and say where it is."""
    return cache.say(lambda: [get().folder])


if __name__ == "__main__":
    sys.exit(main())
