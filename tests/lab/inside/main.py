"""Run by the guest: set the scenario up, then do what the host asks for, and stand still in between.

A serial port is the line to the host.  Reading it blocks, so that waiting changes nothing in memory.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import traceback
import tty
from pathlib import Path
from typing import Any

from tests.lab.inside import record

CARRIED = Path("/lab")
OUT = CARRIED / "out"


class Host:
    """The other end of the serial line."""

    def __init__(self, line: str) -> None:
        self.line = os.open(line, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.line)

    def say(self, word: str) -> None:
        os.write(self.line, word.encode() + b"\n")

    def hear(self) -> str:
        heard = b""
        while not heard.endswith(b"\n"):
            heard += os.read(self.line, 1)
        return heard.decode().strip()


def main(scenario: str, line: str = "/dev/ttyS1") -> None:
    host = Host(line)
    try:
        _play(scenario, host)
    except Exception:
        failure = traceback.format_exc()
        (OUT / "failure").write_text(failure)
        sys.stderr.write(failure)
        subprocess.run(["sync"], check=False)
        host.say("failed")


def _play(scenario: str, host: Host) -> None:
    played = importlib.import_module(f"tests.lab.inside.{scenario}")
    _note("setting up")
    told = played.run()
    _note("set up")
    host.say("ready")
    while True:
        word, *words = host.hear().split()
        _note(f"asked to {word}")
        if word == "record":
            _write("truth.json", _record(played, told))
            subprocess.run(["sync"], check=True)
            record.wait_until_quiet()
            host.say("recorded")
        elif word == "acquire":
            host.say(f"acquired {_acquire(*words)}")
        elif word == "do":
            host.say(f"did {played.do(*words)}")
        elif word == "sources":
            host.say(f"compared {_run('sources.log', 'tests.lab.inside.sources', str(OUT))}")
        elif word == "find":
            host.say(f"found {record.physical_address(*words):x}")
        elif word == "devmem":
            host.say(f"read {_run('devmem.log', 'tests.lab.inside.devmem', str(OUT))}")
        elif word == "end":
            _write("after.json", {"clock": record.clock(), "activity": record.activity()})
            subprocess.run(["sync"], check=True)
            host.say("ended")


def _record(played: Any, told: dict[str, Any]) -> dict[str, Any]:
    """Slow and lasting things first, then the processes at rest, and last what passes."""
    record.bulky(OUT)
    _note("symbols and types are written down")
    truth = {"scenario": told, "recorder": os.getpid(), "machine": record.machine()}
    record.wait_until_quiet()
    _note("all is quiet")
    truth["addresses"] = record.addresses()
    truth["known_files"] = record.known_files(told.get("paths", []))
    played.last_moment()
    _note("recording processes")
    truth["processes"] = record.processes()
    truth["modules"] = record.modules()
    truth["mounts"] = record.mounts()
    truth["network"] = record.network()
    truth["kernel_log"] = record.kernel_log()
    truth["clock"] = record.clock()
    return truth


def _note(what: str) -> None:
    """Leave a line with a time on the console, for whoever waits."""
    print(f"lab: {time.monotonic():.1f} {what}", file=sys.stderr, flush=True)


def _write(name: str, content: dict[str, Any]) -> None:
    (OUT / name).write_text(json.dumps(content))


def _acquire(name: str = "memory.lime", *options: str) -> int:
    """Take the memory from inside, as a responder would; the exit status of memdump."""
    return _run("acquire.log", "memdump", "acquire", str(OUT / name), *options, compiled=False)


def _run(log: str, module: str, *arguments: str, compiled: bool = True) -> int:
    """Run a module with memdump at hand; its exit status.

    What is ``compiled`` is kept for the next run, which changes memory and saves seconds.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": f"{CARRIED / 'src'}:{CARRIED}",
        **({"PYTHONPYCACHEPREFIX": "/run/compiled"} if compiled else {"PYTHONDONTWRITEBYTECODE": "1"}),
        # Without SSSE3 and AVX, OpenSSL hashes almost three times as fast in emulation.
        "OPENSSL_ia32cap": "~0x1000020000000000:~0x20",
    }
    command = [sys.executable, "-m", module, *arguments]
    with (OUT / log).open("w") as file:
        return subprocess.run(
            command, env=environment, stdout=file, stderr=file, check=False, cwd="/"
        ).returncode


if __name__ == "__main__":
    main(*sys.argv[1:])
