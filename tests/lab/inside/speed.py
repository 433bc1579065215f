"""A machine whose memory is full of real things, taken by whichever program the host names."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ADDED = Path("/lab/added")
"""What the host sends along: ``avml``, ``lime.ko``, ``python`` with memdump compiled, ``files`` to read."""
OUT = Path("/lab/out/image")
READ = ("/usr", str(ADDED / "files"))
READY = "ready"
SHARE = 8
"""The programs together hold an eighth of all memory in objects of theirs."""
HOLDERS = 4

AVML = [str(ADDED / "avml"), "acquire", "--source", "/proc/kcore"]
MEMDUMP = [sys.executable, "-m", "memdump", "acquire", "--no-encrypt"]
RECIPIENT = ADDED / "recipient"
COMMANDS = {
    "avml": [*AVML, f"{OUT}"],
    "avml --compress": [*AVML, "--compress", f"{OUT}"],
    # What takes LiME longer than its timeout it leaves out, and an emulated machine takes long.
    "lime": ["insmod", str(ADDED / "lime.ko"), f"path={OUT}", "format=lime", "timeout=0"],
}
COMMANDS["lime digest=sha256"] = [*COMMANDS["lime"], "digest=sha256"]
COMMANDS["lime compress=1"] = [*COMMANDS["lime"], "compress=1"]
READING = str(Path(__file__).with_name("reading.py"))
for source in ("kcore", "ebpf"):
    COMMANDS[f"reading {source}"] = [sys.executable, READING, source, f"{OUT}"]
    for suffix in (".lime", ".lime.zst"):
        COMMANDS[f"memdump {source} {suffix}"] = [*MEMDUMP, "--source", source, f"{OUT}{suffix}"]
    sealed = [*MEMDUMP[:-1], "--recipient", str(RECIPIENT), "--source", source, f"{OUT}.lime.zst.age"]
    COMMANDS[f"memdump {source} .lime.zst.age"] = sealed


def run() -> dict[str, Any]:
    """Fill the memory."""
    _read_files()
    amount = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // SHARE // HOLDERS
    for number in range(HOLDERS):
        reader, writer = os.pipe()
        if not os.fork():
            _hold(number, amount, writer)
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
    return {}


def last_moment() -> None:
    """Nothing passes here."""


def do(*words: str) -> str:
    """Get ready for a program (`READY`), or take the memory with one and tell as JSON what that took."""
    name = " ".join(words)
    return _get_ready() if name == READY else json.dumps(_take(COMMANDS[name]))


def _get_ready() -> str:
    for old in OUT.parent.glob(f"{OUT.name}*"):
        old.unlink()
    subprocess.run(["sync"], check=True)
    _read_files()  # an image before this one may have pushed them out
    return READY


def _take(command: list[str]) -> dict[str, Any]:
    # Without SSSE3 and AVX, OpenSSL digests faster in emulation.
    faster = {"OPENSSL_ia32cap": "~0x1000020000000000:~0x20"}
    environment = {**os.environ, **faster, "PYTHONPATH": str(ADDED / "python"), "HOME": "/root"}
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, cwd="/", stderr=subprocess.PIPE)
    assert process.stderr
    said = process.stderr.read().decode(errors="replace")
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    subprocess.run(["sync"], check=True)
    durable = time.monotonic() - began
    if command[0] == "insmod":
        subprocess.run(["rmmod", "lime"], check=True)
    images = [path for path in OUT.parent.glob(f"{OUT.name}*") if path.suffix not in (".json", ".jsonl")]
    return {
        "status": process.returncode,
        "said": said[-2000:],
        "seconds": seconds,
        "durable": durable,
        "processor": used.ru_utime + used.ru_stime,
        "size": sum(path.stat().st_size for path in images),
        "memory": used.ru_maxrss * 1024,
        "timings": _timings(),
    }


def _timings() -> dict[str, float]:
    """What memdump says of its steps, which run beside each other."""
    timings: dict[str, float] = {}
    for manifest in OUT.parent.glob(f"{OUT.name}*.json"):
        timings = json.loads(manifest.read_text())["timings"]
    return timings


def _read_files() -> None:
    for top in READ:
        for folder, _, names in os.walk(top):
            for name in names:
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    with path.open("rb") as file, open(os.devnull, "wb") as nowhere:
                        shutil.copyfileobj(file, nowhere, 1 << 20)


def _hold(number: int, amount: int, told: int) -> None:
    """Become a program that keeps the words of many files as objects; different files for each."""
    words: list[str] = []
    for path in sorted(Path(os.__file__).parent.rglob("*.py"))[number::HOLDERS] * 100:
        words += path.read_text(errors="replace").split()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if resident > amount:
            break
    os.write(told, b"x")
    while words:
        signal.pause()
