"""Images that ``memdump acquire`` seals, opened by the programs that the formats come from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.test_acquire import SLOW, command, machine, names, run, start, wait_for
from tests.machine.test_acquire import joined
from tests.machine.test_secret import without_right_to_lock

if TYPE_CHECKING:
    from tests.machine.fake_kcore import Machine

__all__ = ["machine"]

needs_age = pytest.mark.skipif(
    not all(map(shutil.which, ("age", "age-keygen", "zstd"))), reason="age and zstd are not installed"
)
needs_ssh = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not installed")
PASSPHRASE = "correct horse"
Key = tuple[Path, str]


@pytest.fixture
def key(tmp_path: Path) -> Key:
    """A file with an age identity, and its recipient."""
    path = tmp_path / "machine" / "key"
    subprocess.run(["age-keygen", "-o", path], check=True, capture_output=True)
    (recipient,) = re.findall(r"age1\w+", path.read_text())
    return path, recipient


def opened(image: Path, key: Path) -> bytes:
    """What ``age -d | zstd -d`` makes of a sealed image."""
    plain = subprocess.run(["age", "-d", "-i", key, image], check=True, capture_output=True).stdout
    return subprocess.run(["zstd", "-d", "-q"], input=plain, check=True, capture_output=True).stdout


@needs_age
def test_age_and_zstd_give_the_memory_back(machine: Machine, tmp_path: Path, key: Key) -> None:
    image = tmp_path / "web1.lime.zst.age"
    status, out, err = run(machine, image, "--recipient", key[1])
    assert (status, out.decode()) == (0, f"{image}\n")
    assert "not encrypted" not in err
    lime = opened(image, key[0])
    assert joined(lime) == machine.memory
    manifest = json.loads(Path(f"{image}.json").read_text())
    assert manifest["stream"]["sha256"] == hashlib.sha256(lime).hexdigest()
    assert manifest["written"]["sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()
    assert manifest["written"]["layers"] == ["zstd", "age"]
    assert stat.S_IMODE(image.stat().st_mode) == 0o600


@needs_age
def test_the_manifest_travels_inside_the_image(machine: Machine, tmp_path: Path) -> None:
    status, _, err = run(machine, tmp_path / "web1.lime.zst")
    assert status == 0, err
    beside = json.loads((tmp_path / "web1.lime.zst.json").read_text())
    data = (tmp_path / "web1.lime.zst").read_bytes()
    assert joined(subprocess.run(["zstd", "-dq"], input=data, check=True, capture_output=True).stdout)
    start = data.index(b'{\n  "format": "memdump manifest"')
    inside, _ = json.JSONDecoder().raw_decode(data[start:].decode("utf-8", "replace"))
    beside["written"] = None
    inside["acquired_by"]["ended"] = beside["acquired_by"]["ended"]
    assert inside == beside


@needs_age
def test_a_recipient_adds_what_the_name_lacks(machine: Machine, tmp_path: Path, key: Key) -> None:
    status, out, _ = run(machine, tmp_path / "web1.lime", "--recipient", key[1])
    assert (status, out.decode()) == (0, f"{tmp_path}/web1.lime.zst.age\n")
    status, out, _ = run(machine, tmp_path / "other.lime.age", "--recipient", key[1])
    assert (status, out.decode()) == (0, f"{tmp_path}/other.lime.age\n")
    plain = subprocess.run(["age", "-d", "-i", key[0], tmp_path / "other.lime.age"], capture_output=True)
    assert joined(plain.stdout) == machine.memory


@needs_age
def test_configured_recipients_are_the_default(machine: Machine, tmp_path: Path, key: Key) -> None:
    folder = tmp_path / "machine" / "memdump"
    folder.mkdir()
    (folder / "recipients").write_text(f"# our escrow key\n{key[1]}\n")
    environment = {**os.environ, "XDG_CONFIG_HOME": str(folder.parent)}
    _, out, _ = run(machine, tmp_path / "a.lime", env=environment)
    assert out.decode() == f"{tmp_path}/a.lime.zst.age\n"
    assert joined(opened(tmp_path / "a.lime.zst.age", key[0])) == machine.memory
    _, out, err = run(machine, tmp_path / "b.lime", "--no-encrypt", env=environment)
    assert out.decode() == f"{tmp_path}/b.lime\n"
    assert "not encrypted" in err


@needs_age
def test_recipients_may_come_through_a_pipe(machine: Machine, tmp_path: Path, key: Key) -> None:
    reading, writing = os.pipe()
    os.write(writing, f"{key[1]}\n".encode())
    os.close(writing)
    recipients = f"/dev/fd/{reading}"  # as <(...) of a shell
    status, _, err = run(machine, tmp_path / "a.lime", "--recipient", recipients, pass_fds=[reading])
    os.close(reading)
    assert status == 0, err
    assert joined(opened(tmp_path / "a.lime.zst.age", key[0])) == machine.memory


def test_encrypted_to_nobody_is_refused(machine: Machine, tmp_path: Path) -> None:
    status, _, err = run(machine, tmp_path / "web1.lime.age", env={**os.environ, "XDG_CONFIG_HOME": "/none"})
    assert status == 2
    assert "to whom" in err
    assert names(tmp_path) == []


@needs_age
def test_a_passphrase_is_asked_for_twice(machine: Machine, tmp_path: Path) -> None:
    child, terminal = pty.fork()
    if not child:
        words = command(machine, "0", tmp_path / "web1.lime.zst.age", "--passphrase")
        os.execv(words[0], [str(word) for word in words])
    said = b""
    for prompt in (b"Passphrase: ", b"again: "):
        while not said.endswith(prompt):
            said += os.read(terminal, 100)
        os.write(terminal, PASSPHRASE.encode() + b"\n")
    with open(terminal, "rb", closefd=False) as rest:
        try:
            for line in rest:
                said += line
        except OSError:  # a terminal whose other end is closed
            pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, said
    assert PASSPHRASE.encode() not in said
    pyrage = pytest.importorskip("pyrage")
    packed = pyrage.passphrase.decrypt((tmp_path / "web1.lime.zst.age").read_bytes(), PASSPHRASE)
    lime = subprocess.run(["zstd", "-dq"], input=packed, check=True, capture_output=True).stdout
    assert joined(lime) == machine.memory


@needs_age
@pytest.mark.parametrize("dry", [True, False])
def test_no_passphrase_is_asked_for_that_is_not_needed(machine: Machine, tmp_path: Path, dry: bool) -> None:
    options = ["--dry-run", "--source", "kcore"]
    if not dry:
        options = []
        machine.iomem.write_text("00000000-00000000 : System RAM\n")  # no source opens
    child, terminal = pty.fork()
    if not child:
        words = command(machine, "0", tmp_path / "web1.lime.zst.age", "--passphrase", *options)
        os.execv(words[0], [str(word) for word in words])
    said = b""
    with contextlib.suppress(OSError):  # a terminal whose other end is closed
        while b"Passphrase" not in said:
            said += os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (0 if dry else 4), said
    assert (b"web1.lime.zst.age" if dry else b"CAP_SYS_ADMIN") in said


@needs_age
@pytest.mark.parametrize("encrypted", [True, False])
def test_what_a_key_in_memory_is_exposed_to_is_said_once(
    machine: Machine, tmp_path: Path, key: Key, encrypted: bool
) -> None:
    """A user who may not lock memory, on a machine with swap, which the kernel's own list tells."""
    words = command(machine, "0", tmp_path / "web1.lime", *(["--recipient", key[1]] * encrypted))
    swap = f"from memdump.machine import secret; secret.SWAPS = secret.Path({str(swaps(tmp_path))!r})\n"
    words[2] = swap + str(words[2])
    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=without_right_to_lock(0))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("a key or passphrase is in memory: memory may be swapped") == encrypted
    if not encrypted:
        return
    look = swap + "import sys; from memdump.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", look, "verify", tmp_path / "web1.lime.zst.age", "--identity", key[0]],
        capture_output=True,
        text=True,
        preexec_fn=without_right_to_lock(0),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("a key or passphrase is in memory: memory may be swapped") == 1


def swaps(folder: Path) -> Path:
    path = folder / "machine" / "swaps"
    path.write_text("Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1000 0 -2\n")
    return path


@needs_age
def test_a_sealed_image_that_was_stopped_is_valid(machine: Machine, tmp_path: Path, key: Key) -> None:
    process = start(machine, tmp_path / "web1.lime.zst.age", "--recipient", key[1], pause=SLOW)
    wait_for(tmp_path / "web1.lime.zst.age.part", 100)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert "web1.lime.zst.age.part" in names(tmp_path)
    taken = joined(opened(tmp_path / "web1.lime.zst.age.part", key[0]))
    assert all(machine.memory[start].startswith(data) for start, data in taken.items())
    manifest = json.loads((tmp_path / "web1.lime.zst.age.json").read_text())
    missing = sum(size for _, size in manifest["not_taken"])
    assert missing
    assert sum(map(len, taken.values())) + missing == sum(map(len, machine.memory.values()))


@needs_ssh
def test_ssh_keygen_accepts_the_signature(machine: Machine, tmp_path: Path) -> None:
    key = tmp_path / "machine" / "signer"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    status, _, _ = run(machine, tmp_path / "web1.lime", "--sign", key)
    assert status == 0
    allowed = tmp_path / "machine" / "allowed"
    allowed.write_text(f"responder {key.with_suffix('.pub').read_text()}")
    verify: list[str | Path] = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        allowed,
        "-I",
        "responder",
        "-n",
        "memdump",
    ]
    verify += ["-s", tmp_path / "web1.lime.json.sig"]
    data = (tmp_path / "web1.lime.json").read_bytes()
    assert subprocess.run(verify, input=data, capture_output=True, check=False).returncode == 0
    changed = data.replace(b"kcore", b"Kcore")
    assert subprocess.run(verify, input=changed, capture_output=True, check=False).returncode != 0


def test_pieces_put_together_are_the_image(machine: Machine, tmp_path: Path) -> None:
    status, out, _ = run(machine, tmp_path / "web1.lime", "--split", "1M")
    assert status == 0
    pieces = sorted(tmp_path.glob("web1.lime.[0-9]*"))
    assert [piece.name for piece in pieces] == [f"web1.lime.{number:03}" for number in range(4)]
    assert joined(b"".join(piece.read_bytes() for piece in pieces)) == machine.memory
    assert out.decode().startswith(str(tmp_path / "web1.lime"))


@needs_age
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_whenever_it_is_ended_nothing_looks_whole_that_is_not(
    machine: Machine, tmp_path: Path, key: Key, number: signal.Signals
) -> None:
    ends = random.Random(number)
    for attempt in range(12):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process = start(machine, folder / "a.lime.zst.age", "--recipient", key[1], pause=0.01)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ends.uniform(0.1, 1.3))
        process.send_signal(number)
        process.communicate(timeout=60)
        left = names(folder)
        if "a.lime.zst.age" in left:
            assert joined(opened(folder / "a.lime.zst.age", key[0])) == machine.memory
        elif number == signal.SIGKILL:
            assert left in ([], ["a.lime.zst.age.part"])
        elif left:
            assert left == [f"a.lime.zst.age{end}" for end in (".custody.jsonl", ".json", ".part")]
            taken = joined(opened(folder / "a.lime.zst.age.part", key[0]))
            assert all(machine.memory[start].startswith(data) for start, data in taken.items())
