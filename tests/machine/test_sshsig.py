"""Signatures, against ``ssh-keygen`` as a person would call it."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memdump.errors import MemdumpError, NotPermitted, UsageError
from memdump.machine import sshsig
from memdump.machine.sshsig import BadSignature, Signer

if TYPE_CHECKING:
    from collections.abc import Iterator

if shutil.which("ssh-keygen") is None:
    pytest.skip("ssh-keygen is not installed", allow_module_level=True)

DATA = b'{"format": "memdump manifest"}\n' * 1000
KINDS = {"ed25519": (), "rsa": ("-b", "2048"), "ecdsa": ()}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key of each kind, named after it, and one with a passphrase."""
    folder = tmp_path_factory.mktemp("keys")
    for kind, options in KINDS.items():
        make(folder / kind, "", "-t", kind, *options)
    make(folder / "secret", "open sesame", "-t", "ed25519")
    return folder


@pytest.fixture(autouse=True)
def no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def make(path: Path, passphrase: str, *options: str) -> None:
    subprocess.run(["ssh-keygen", "-q", "-N", passphrase, "-C", "ada@lab", "-f", path, *options], check=True)


def fingerprint(public: Path) -> str:
    """What ``ssh-keygen -l`` shows: bits, fingerprint, comment, kind."""
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", public], check=True, capture_output=True, text=True
    ).stdout.split()
    return f"{shown[-1].strip('()')} key {shown[1]}"


def allow(folder: Path, public: Path, name: str = "ada@lab", options: str = "") -> str:
    path = folder / "allowed"
    path.write_text(f"# who may sign\n{name} {options} {public.read_text()}")
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_ssh_keygen_accepts_what_was_signed_and_nothing_else(keys: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.json.sig").write_bytes(sshsig.sign(DATA, str(keys / kind)))
    allowed = allow(tmp_path, keys / f"{kind}.pub")
    command: list[str | Path] = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        allowed,
        "-I",
        "ada@lab",
        "-s",
        tmp_path / "a.json.sig",
        "-n",
    ]
    good = subprocess.run([*command, "memdump"], input=DATA, capture_output=True)
    assert good.returncode == 0, good.stderr
    assert subprocess.run([*command, "memdump"], input=DATA + b"\n", capture_output=True).returncode
    assert subprocess.run([*command, "git"], input=DATA, capture_output=True).returncode


@pytest.mark.parametrize("kind", KINDS)
def test_what_ssh_keygen_signed_is_accepted(keys: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.json").write_bytes(DATA)
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", keys / kind, "-n", "memdump", tmp_path / "a.json"],
        check=True,
    )
    signature = (tmp_path / "a.json.sig").read_bytes()
    key = fingerprint(keys / f"{kind}.pub")
    allowed = allow(tmp_path, keys / f"{kind}.pub", "bob@lab,ada@lab")
    assert sshsig.verify(DATA, signature) == Signer(key, None)
    assert sshsig.verify(DATA, signature, str(keys / f"{kind}.pub"), public_key=True) == Signer(key, None)
    assert sshsig.verify(DATA, signature, allowed) == Signer(key, "bob@lab")


@pytest.fixture(scope="module")
def signature(keys: Path) -> bytes:
    return sshsig.sign(DATA, str(keys / "ed25519"))


def test_any_changed_byte_is_found(signature: bytes, keys: Path) -> None:
    for data in (DATA[:-1], DATA + b" ", b"", DATA.replace(b"m", b"M", 1)):
        with pytest.raises(BadSignature, match="not over this manifest"):
            sshsig.verify(data, signature, str(keys / "ed25519.pub"), public_key=True)


@pytest.mark.parametrize("damage", [b"", b"x", b"\0" * 100, b"-----BEGIN SSH SIGNATURE-----\nU1N"])
def test_what_is_no_signature_is_told(damage: bytes) -> None:
    with pytest.raises(BadSignature, match="cannot be read"):
        sshsig.verify(DATA, damage)
    with pytest.raises(BadSignature, match="too large"):
        sshsig.verify(DATA, b"x" * 100_000)


def test_a_signature_for_something_else_does_not_serve(keys: Path) -> None:
    done = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-f", keys / "ed25519", "-n", "git"],
        input=DATA,
        capture_output=True,
        check=True,
    )
    with pytest.raises(BadSignature, match="not made for memdump"):
        sshsig.verify(DATA, done.stdout)


@pytest.mark.parametrize("options", ['namespaces="git"', 'valid-before="20200101"'])
def test_who_may_not_sign_is_told(signature: bytes, keys: Path, tmp_path: Path, options: str) -> None:
    for allowed in (allow(tmp_path, keys / "rsa.pub"), allow(tmp_path, keys / "ed25519.pub", "a@b", options)):
        with pytest.raises(BadSignature, match=r"signed with ED25519 key SHA256:\S+, which is none that"):
            sshsig.verify(DATA, signature, allowed)
    with pytest.raises(BadSignature, match="which is none that"):
        sshsig.verify(DATA, signature, str(keys / "rsa.pub"), public_key=True)


def test_a_file_may_hold_the_keys_of_several(signature: bytes, keys: Path, tmp_path: Path) -> None:
    both = tmp_path / "team.pub"
    both.write_text("# the team\n" + (keys / "rsa.pub").read_text() + (keys / "ed25519.pub").read_text())
    assert sshsig.verify(DATA, signature, str(both), public_key=True).key == fingerprint(keys / "ed25519.pub")


def test_a_signer_that_is_no_public_key_is_told(signature: bytes, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n")
    (tmp_path / "big").write_bytes(bytes(100_000))
    for path, words in (
        (keys / "ed25519", "is a private key; give the public one"),
        (tmp_path / "text", "no public SSH key is in it"),
        (tmp_path / "big", "too large"),
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(UsageError, match=words):
            sshsig.verify(DATA, signature, str(path), public_key=True)


def test_a_key_that_cannot_sign_is_told(keys: Path, tmp_path: Path) -> None:
    public = shutil.copy(keys / "ed25519.pub", tmp_path)
    opened = shutil.copy(keys / "ed25519", tmp_path / "opened")
    Path(opened).chmod(0o644)
    (tmp_path / "text").write_text("hello\n")
    for path, words in (
        (public, "the private key is not here, and no agent holds it"),
        (opened, "chmod 600|private key is not here"),
        (tmp_path / "text", "cannot sign"),
        (tmp_path / "none", "No such file"),
    ):
        with pytest.raises(MemdumpError, match=words) as caught:
            sshsig.sign(DATA, str(path))
        assert "\n" not in str(caught.value)


def test_an_agent_signs_with_the_public_key(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("ssh-agent") is None:
        pytest.skip("ssh-agent is not installed")
    with subprocess.Popen(["ssh-agent", "-D", "-a", tmp_path / "agent"], stdout=subprocess.DEVNULL) as agent:
        try:
            monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
            while not (tmp_path / "agent").exists():
                time.sleep(0.01)
            subprocess.run(["ssh-add", "-q", keys / "rsa"], check=True)
            public = str(shutil.copy(keys / "rsa.pub", tmp_path))
            signature = sshsig.sign(DATA, public)
        finally:
            agent.terminate()
    assert sshsig.verify(DATA, signature).key == fingerprint(keys / "rsa.pub")


ASKED = """
import sys
from memdump.errors import MemdumpError
from memdump.machine import sshsig
try:
    sys.stdout.buffer.write(sshsig.sign(b"data", sys.argv[1]))
except MemdumpError as error:
    sys.exit(str(error))
"""


def on_a_terminal(keys: Path, typed: bytes) -> Iterator[bytes]:
    """Sign on a terminal of its own; gives what is on it, then what came out."""
    import sys

    inside, outside = os.pipe()
    child, terminal = pty.fork()
    if not child:
        os.dup2(outside, 1)
        os.execv(sys.executable, [sys.executable, "-c", ASKED, str(keys / "secret")])
    os.close(outside)
    shown = b""
    while b"passphrase" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, typed + b"\n")
    with os.fdopen(inside, "rb") as pipe:
        signature = pipe.read()
    try:
        while more := os.read(terminal, 1000):
            shown += more
    except OSError:  # the terminal of a process that ended
        pass
    os.waitpid(child, 0)
    os.close(terminal)
    yield shown
    yield signature


def test_the_passphrase_is_asked_for_on_the_terminal(keys: Path) -> None:
    shown, signature = on_a_terminal(keys, b"open sesame")
    assert b"sesame" not in shown
    assert sshsig.verify(b"data", signature).key == fingerprint(keys / "secret.pub")


def test_a_wrong_passphrase_is_told(keys: Path) -> None:
    shown, signature = on_a_terminal(keys, b"open barley")
    assert b"the passphrase is wrong" in shown
    assert signature == b""


def test_without_ssh_keygen_or_with_an_old_one_it_is_told(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signature: bytes
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="there is no ssh-keygen"):
        sshsig.check(str(keys / "rsa"))
    old = tmp_path / "ssh-keygen"
    old.write_text("#!/bin/sh\necho 'unknown option -- Y\nusage: ssh-keygen [-q] [-b bits]' >&2\nexit 1\n")
    old.chmod(0o755)
    with pytest.raises(UsageError, match=r"too old .* OpenSSH 8\.2"):
        sshsig.check(str(keys / "rsa"))
    with pytest.raises(UsageError, match="too old"):
        sshsig.verify(DATA, signature, allow(tmp_path, keys / "ed25519.pub"))
    old.chmod(0o644)
    with pytest.raises(UsageError, match="ssh-keygen"):
        sshsig.check(str(keys / "rsa"))


def test_a_key_is_checked_beforehand_without_asking(keys: Path, tmp_path: Path) -> None:
    for name in ("rsa", "rsa.pub", "secret"):
        sshsig.check(str(keys / name))
    (tmp_path / "text").write_text("hello\n")
    for name, words in (("text", "is no SSH key"), ("none", "No such file"), ("", "Is a directory")):
        with pytest.raises((UsageError, NotPermitted), match=words):
            sshsig.check(str(tmp_path / name))


def test_a_key_that_wants_to_be_touched_is_known(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "token.pub").write_text("sk-ssh-ed25519@openssh.com AAAA ada@lab\n")
    assert sshsig.wants_touch(str(tmp_path / "token"))
    assert sshsig.wants_touch(str(tmp_path / "token.pub"))
    assert not sshsig.wants_touch(str(keys / "rsa"))
    assert not sshsig.wants_touch(str(tmp_path / "none"))
