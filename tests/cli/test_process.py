"""``memdump process`` as a command: what it refuses, how it says it, and that nothing is left behind."""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memdump import cli
from memdump.cli import process
from memdump.errors import UsageError
from memdump.machine import destination
from tests.machine.peers import receiver
from tests.process.targets import Running, begun, built, needs_gcc, running

if TYPE_CHECKING:
    import argparse

    from memdump.machine.destination import Destination, Options

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
PYTHON = "/usr/bin/python3"
"""One that everybody may run."""
SEIZE, PR_SET_DUMPABLE = 0x4206, 4


def run(*words: object, python: str = sys.executable, **options: object) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "memdump", "process", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def refused(done: subprocess.CompletedProcess[str], status: int, *said: str) -> None:
    """It says one line, with the status, and no more."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    for words in said:
        assert words in done.stderr


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, request: pytest.FixtureRequest) -> object:
    """A refusal leaves no file."""
    yield
    if "refuses" in request.node.name:
        assert [path.name for path in tmp_path.iterdir() if "core" in path.name] == []


def unharmed(target: Running) -> None:
    assert target.status("TracerPid") == "0"
    assert target.state in "SR"


def test_it_refuses_what_is_no_process(tmp_path: Path) -> None:
    largest = int(Path("/proc/sys/kernel/pid_max").read_text())
    refused(run(largest + 1, tmp_path / "core"), 2, "there is no process")
    refused(run("nginx", tmp_path / "core"), 2, "no process id")
    refused(run(tmp_path), 2, "which process?")
    refused(run("--all", "no-such-name", tmp_path), 2, "no process called 'no-such-name'")
    refused(run("--container", "no-such-id", tmp_path), 2, "no process in a cgroup")


def test_it_refuses_threads_of_the_kernel(tmp_path: Path) -> None:
    if not Path("/proc/2/comm").exists() or Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("there are no threads of the kernel to be seen here")
    refused(run(2, tmp_path / "core"), 2, "thread of the kernel", "kthreadd")


def test_it_refuses_a_zombie(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    refused(run(child.pid, tmp_path / "core"), 2, "zombie")
    child.wait()


def test_it_refuses_a_thread(tmp_path: Path) -> None:
    program = (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(99,)).start()\n"
        "print('ready', flush=True)"
    )
    with begun([sys.executable, "-c", program]) as target:
        assert target.line() == "ready"
        (tid,) = (
            int(path.name)
            for path in Path(f"/proc/{target.pid}/task").iterdir()
            if int(path.name) != target.pid
        )
        refused(run(tid, tmp_path / "core"), 2, f"thread of process {target.pid}")


def test_it_refuses_what_another_one_traces(tmp_path: Path) -> None:
    with begun(["sleep", "99"]) as target:
        libc = ctypes.CDLL(None)
        assert libc.ptrace(SEIZE, target.pid, None, None) == 0
        refused(run(target.pid, tmp_path / "core"), 4, f"traced by process {os.getpid()}")


@needs_root
def test_it_refuses_somebody_else_s(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with begun(["sleep", "99"]) as target:
        done = run(target.pid, tmp_path / "core", python=PYTHON, **as_nobody())
        refused(done, 4, "belongs to user 0", "CAP_SYS_PTRACE")
        unharmed(target)


@needs_root
def test_it_refuses_what_forbids_it(tmp_path: Path) -> None:
    program = (
        "import ctypes, time\n"
        f"ctypes.CDLL(None).prctl({PR_SET_DUMPABLE}, 0, 0, 0, 0)\n"
        "print('ready', flush=True); time.sleep(99)"
    )
    nobody = as_nobody()
    process = subprocess.Popen([PYTHON, "-c", program], stdout=subprocess.PIPE, text=True, **nobody)  # type: ignore[call-overload]
    try:
        assert process.stdout.readline() == "ready\n"
        refused(
            run(process.pid, tmp_path / "core", python=PYTHON, **nobody),
            4,
            "PR_SET_DUMPABLE",
            "CAP_SYS_PTRACE",
        )
        assert run(process.pid, tmp_path / "allowed-to-root").returncode == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def as_nobody() -> dict[str, object]:
    """Options of subprocess with which a program runs as nobody, who may read memdump's sources."""
    found = pwd.getpwnam("nobody")
    who = {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    source = Path(__file__).parents[2] / "src"
    try:
        subprocess.run([PYTHON, "-c", "import memdump"], check=True, env={"PYTHONPATH": str(source)}, **who)  # type: ignore[call-overload]
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nobody may not run memdump here")
    return {**who, "env": {"PYTHONPATH": str(source)}}


def test_it_refuses_to_write_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("precious")
    with begun(["sleep", "99"]) as target:
        refused(run(target.pid, tmp_path / "here"), 2, "exists already")
        refused(run(target.pid, tmp_path / "nowhere" / "core"), 2, "name a folder that exists")
        refused(run(target.pid, f"{tmp_path / 'nowhere'}/"), 2, "no such folder")
        refused(run(target.pid, tmp_path / "here" / "a"), 2, "is no folder")
        refused(run(target.pid, "", cwd=tmp_path), 2, "OUT is empty")
        refused(run(target.pid, tmp_path / "a", "--manifest", tmp_path / "here"), 2, "exists already")
        refused(run(target.pid, tmp_path / "a", "--manifest", ""), 2, "name a file")
        unharmed(target)
    assert (tmp_path / "here").read_text() == "precious"


def test_it_refuses_a_signed_address_that_says_encrypted_where_nobody_is_named(tmp_path: Path) -> None:
    address = "http://127.0.0.1:9/x.core.zst.age?sig=secret"
    with begun(["sleep", "99"]) as target:
        done = run(target.pid, address, "--no-encrypt")
        refused(done, 2, "http://127.0.0.1:9/x.core.zst.age: .age says encrypted, but to whom?")
        assert "secret" not in done.stderr
        unharmed(target)


def test_it_refuses_what_would_be_passed_over(tmp_path: Path) -> None:
    (tmp_path / "split.000").write_text("precious")
    with begun(["sleep", "99"]) as target:
        refused(run(target.pid, "-", "--split", "1M"), 2, "--split is for files")
        refused(run(target.pid, "-", "--tls"), 2, "--tls is for tcp: only")
        refused(run(target.pid, tmp_path / "split", "--split", "1M"), 2, "split.000: exists already")
        refused(run(target.pid, "TCP:nobody"), 2, "is no address")
        refused(run(target.pid, "ftp://host/x"), 2, "is no way to send")
        unharmed(target)


def test_it_refuses_a_signature_that_finds_no_place(tmp_path: Path) -> None:
    if not shutil.which("ssh-keygen"):
        pytest.skip("ssh-keygen is not installed")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (tmp_path / "m.json.sig").write_text("precious")
    with begun(["sleep", "99"]) as target:
        refused(run(target.pid, "-", "--sign", key), 2, "there is no place beside the image")
        done = run(target.pid, "-", "--sign", key, "--manifest", tmp_path / "m.json")
        refused(done, 2, "m.json.sig: exists already")


def test_nothing_is_written_here_of_what_is_sent(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    with begun(["sleep", "99"]) as target, receiver(there) as receiving:
        done = run(target.pid, f"TCP:127.0.0.1:{receiving.port}", cwd=here)
        assert done.returncode == 0, done.stderr
        assert receiving.end()[0] == 0
    assert list(here.iterdir()) == []
    assert len(list(there.glob("*.core.json"))) == 1


def test_a_core_whose_place_is_taken_meanwhile_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = iter([UsageError("somebody was quicker")])

    def open_destination(out: str, options: Options) -> Destination:
        for error in places:
            raise error
        return opened(out, options)

    opened = destination.open_destination
    monkeypatch.setattr(destination, "open_destination", open_destination)
    with begun(["sleep", "99"]) as one, begun(["sleep", "98"]) as other:
        assert cli.main(["process", str(one.pid), str(other.pid), str(tmp_path)]) == 1
        unharmed(one)
        unharmed(other)
    assert "somebody was quicker; it is left out" in capsys.readouterr().err
    (core,) = tmp_path.glob("*.core")
    assert str(other.pid) in core.name


def test_it_refuses_a_disk_without_room(tmp_path: Path) -> None:
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", tmp_path], capture_output=True
    ).returncode:
        pytest.skip("nothing may be mounted here")
    program = "x = bytes(range(256)) * (40 << 12)\nprint('ready', flush=True); input()"
    try:
        with begun([sys.executable, "-c", program]) as target:
            assert target.line() == "ready"
            refused(run(target.pid, tmp_path / "core"), 2, "has room for")
            unharmed(target)
            assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_disk_that_fills_up_leaves_a_part_and_an_unharmed_process(tmp_path: Path) -> None:
    """The size is not known beforehand where what is read is a file's, none of it in memory."""
    program = "x = bytes(range(256)) * (40 << 12)\nprint('ready', flush=True); input()"
    with begun([sys.executable, "-c", program]) as target:
        assert target.line() == "ready"
        # Files larger than 8 MiB fail as a full disk does.
        done = subprocess.run(
            [
                "bash",
                "-c",
                f"ulimit -f 8192; exec {sys.executable} -m memdump process {target.pid} {tmp_path / 'a'}",
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert "what was written stands in" in done.stderr
        assert {path.name for path in tmp_path.iterdir()} >= {"a.part", "a.json"}
        assert json.loads((tmp_path / "a.json").read_text())["complete"] is False
        unharmed(target)


@needs_gcc
def test_what_cannot_be_copied_stands_still_and_it_is_said_why(tmp_path: Path) -> None:
    program = (
        "import ctypes, os, time\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.prctl(38, 1, 0, 0, 0)\n"
        "import struct\n"
        "code = struct.pack('HBBI', 6, 0, 0, 0x7fff0000)\n"  # allows everything
        "buffer = ctypes.create_string_buffer(code)\n"
        "program = struct.pack('HxxxxxxQ', 1, ctypes.addressof(buffer))\n"
        "assert libc.prctl(22, 2, program, 0, 0) == 0\n"
        "print('ready', flush=True); time.sleep(99)"
    )
    with begun([sys.executable, "-c", program]) as target:
        assert target.line() == "ready"
        done = run(target.pid, tmp_path / "core")
        assert done.returncode == 0
        assert "seccomp filter" in done.stderr
        manifest = json.loads((tmp_path / "core.json").read_text())["process"]
        assert manifest["mode"] == "freeze"
        assert "seccomp" in manifest["why_not"]
        unharmed(target)


@needs_root
def test_no_room_for_another_process(tmp_path: Path) -> None:
    nobody = as_nobody()
    words = ["prlimit", "--nproc=1", "sleep", "99"]
    process = subprocess.Popen(words, **nobody)  # type: ignore[call-overload]
    try:
        time.sleep(0.3)
        done = run(process.pid, tmp_path / "core")
        assert done.returncode == 0
        assert "RLIMIT_NPROC" in done.stderr
        assert json.loads((tmp_path / "core.json").read_text())["process"]["mode"] == "freeze"
    finally:
        process.kill()
        process.wait()


@needs_gcc
def test_a_signal_ends_it_in_order(tmp_path: Path) -> None:
    with running("tick", 400) as target:
        words = [sys.executable, "-m", "memdump", "process", str(target.pid), str(tmp_path / "a.core.zst")]
        dump = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 10
        while not (tmp_path / "a.core.zst.part").exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        dump.send_signal(signal.SIGINT)
        assert dump.stderr
        said = dump.stderr.read()
        dump.stderr.close()
        assert dump.wait() == 1, said
        assert "stopped by SIGINT" in said
        assert target.children() == ""
        unharmed(target)


@needs_gcc
def test_a_core_goes_to_standard_output(tmp_path: Path) -> None:
    with running("blocked", "read") as target:
        words = [sys.executable, "-m", "memdump", "process", str(target.pid), "-"]
        done = subprocess.run(words, capture_output=True, cwd=tmp_path)
        assert done.returncode == 0
        assert done.stdout.startswith(b"\x7fELF")
        assert list(tmp_path.iterdir()) == []


@needs_gcc
def test_all_of_a_name_and_verify(tmp_path: Path) -> None:
    program = tmp_path / f"all-{os.getpid()}"  # a name that no other test's processes have
    shutil.copy(built("blocked"), program)
    with begun([str(program), "read"]) as one, begun([str(program), "poll"]) as other:
        assert (one.line(), other.line()) == ("ready", "ready")
        done = run("--all", program.name, tmp_path, "--digest")
        assert done.returncode == 0, done.stderr
        cores = [Path(line) for line in done.stdout.splitlines()]
        assert {one.pid, other.pid} == {int(path.name.split("-")[2]) for path in cores}
        verified = subprocess.run(
            [sys.executable, "-m", "memdump", "verify", cores[0]], capture_output=True, text=True
        )
        assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.parametrize(
    ("line", "pids", "out", "mode"),
    [
        ("12", [12], ".", None),
        ("12 a.core", [12], "a.core", None),
        ("12 --mode live a.core", [12], "a.core", "live"),
        ("--mode live 12 a.core", [12], "a.core", "live"),
        ("12 a.core --mode live", [12], "a.core", "live"),
        ("12 --mode=live", [12], ".", "live"),
        ("--mode live 12", [12], ".", "live"),
        ("12 --mode live 13 --no-shared folder", [12, 13], "folder", "live"),
        ("12 13 --mode live folder", [12, 13], "folder", "live"),
        ("12 --mode live 13", [12, 13], ".", "live"),
        ("--skip file 12 13 --skip huge folder --mode live", [12, 13], "folder", "live"),
        ("12 --mode live -", [12], "-", "live"),
        ("--all x folder", [], "folder", None),
        ("--all x --mode live folder", [], "folder", "live"),
        ("--mode live folder --all x", [], "folder", "live"),
        ("12 --all x folder", [12], "folder", None),
        ("--container x folder", [], "folder", None),
        ("folder --container x --mode live", [], "folder", "live"),
        ("--container x --mode live", [], ".", "live"),
        ("--mode live -- 12 -a.core", [12], "-a.core", "live"),
    ],
)
def test_options_stand_anywhere(
    monkeypatch: pytest.MonkeyPatch, line: str, pids: list[int], out: str, mode: str | None
) -> None:
    found = []

    def run_it(args: argparse.Namespace) -> int:
        found.append(args)
        return 0

    monkeypatch.setattr(process, "run", run_it)
    assert cli.main(["process", *line.split()]) == 0
    (args,) = found
    assert process.processes_and_place(args) == (pids, out)
    assert args.mode == mode
    assert (args.all or args.container) == (None if pids and "--all" not in line else "x")


def test_a_core_is_written_where_it_is_said_behind_an_option(tmp_path: Path) -> None:
    with begun(["sleep", "99"]) as target:
        done = run(target.pid, "--mode", "live", tmp_path / "a.core")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{tmp_path / 'a.core'}\n"
        assert json.loads((tmp_path / "a.core.json").read_text())["process"]["mode"] == "live"
    refused(run("1 2", tmp_path), 2, "'1 2' is no process id")
    refused(run(1, tmp_path / "a", "--no-shared", tmp_path / "b"), 2, "is no process id; a single OUT")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_what_it_was_started_without_does_not_matter(tmp_path: Path, closed: str) -> None:
    """No file takes the place of a standard one, in which others would write."""
    with begun(["sleep", "99"]) as target:
        command = f"{sys.executable} -m memdump process {target.pid} {tmp_path / 'a.core'} {closed}"
        assert subprocess.run(["sh", "-c", command], capture_output=True).returncode == 0
        assert json.loads((tmp_path / "a.core.json").read_text())["complete"]
        assert subprocess.run(["readelf", "-h", tmp_path / "a.core"], capture_output=True).stderr == b""
        unharmed(target)
        command = f"{sys.executable} -m memdump process {target.pid} - >&-"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        refused(done, 2, "standard output is closed")
