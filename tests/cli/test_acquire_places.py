"""Where ``memdump acquire`` is told to write what cannot be written there: told before memory is taken."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.cli.test_acquire import machine, names, run
from tests.machine.peers import certificate, receiver
from tests.machine.test_acquire import joined

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine.fake_kcore import Machine

__all__ = ["machine"]

LONG = "a" * 245
DRY = ("--dry-run", "--source", "kcore")
PRECIOUS = (
    *("taken.lime", "half.lime.part", "told.lime.json", "stale.lime.json.part", "split.lime.003"),
    *("kept.json", "kept2.json.sig", "kept3.json.sig.part"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with things in the way."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in PRECIOUS:
        (folder / name).write_text("precious")
    (folder / "link.lime").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    cert, key = certificate(tmp_path / "machine", "receiver")
    shutil.copy(cert, folder / "cert.pem")
    key.rename(folder / "key.pem")
    return folder


def everything(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("",), "OUT is empty"),
        (("taken.lime",), "taken.lime: exists already and is never written over"),
        (("half.lime",), "half.lime.part: exists already"),
        (("told.lime",), "told.lime.json: exists already"),
        (("stale.lime",), "stale.lime.json.part: exists already"),
        (("link.lime",), "link.lime: exists already"),
        (("pipe",), "pipe: exists already"),
        (("/dev/null",), "/dev/null: exists already"),
        (("/dev/full",), "/dev/full: exists already"),
        (("none/a.lime",), "none: No such file or directory; name a folder that exists"),
        (("taken.lime/a.lime",), "taken.lime: is no folder"),
        ((f"{LONG}.lime",), "is too long a name"),
        (("split.lime", "--split", "1M"), "split.lime.003: exists already"),
        (("a.lime", "--split", "1000"), "pieces of 1000 bytes are too small"),
        (("a.lime", "--manifest", "none/m.json"), "none: No such file or directory"),
        (("a.lime", "--manifest", "kept.json"), "kept.json: exists already"),
        (("a.lime", "--manifest", "a.lime"), "--manifest a.lime: is the image"),
        (("a.lime", "--manifest", "-"), "--manifest '-': name a file"),
        (("tcp:nobody",), "'nobody' is no address: write HOST:PORT"),
        (("TCP:nobody",), "'nobody' is no address: write HOST:PORT"),
        (("ftp://host/x?secret",), "ftp: is no way to send an image"),
        (("http://host",), "http://host: names no file on a server"),
        (("tcp:127.0.0.1:9", "--tls-ca", "none.pem"), "none.pem: No such file or directory"),
        (("tcp:127.0.0.1:9", "--tls-ca", "taken.lime"), "taken.lime: is not in PEM form"),
        (("tcp:127.0.0.1:9", "--tls-cert", "taken.lime"), "taken.lime: is not in PEM form"),
        (("tcp:127.0.0.1:9", "--tls-cert", "cert.pem"), "cert.pem: holds no private key; add --tls-key"),
    ],
)
def test_it_is_refused_in_one_line_with_nothing_written(
    machine: Machine, folder: Path, arguments: tuple[str, ...], said: str, dry: bool
) -> None:
    before = everything(folder)
    status, _, err = run(machine, *arguments, "--no-encrypt", *(DRY if dry else ()), cwd=folder)
    assert (status, everything(folder)) == (2, before), err
    assert said in err.splitlines()[-1]
    assert "secret" not in err
    assert {(folder / name).read_text() for name in PRECIOUS} == {"precious"}


def test_a_signature_that_would_find_no_place_is_refused(machine: Machine, folder: Path) -> None:
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    for place in ("-", "http://127.0.0.1:9/x"):
        status, out, err = run(machine, place, "--sign", key, "--no-encrypt", cwd=folder)
        assert (status, out) == (2, b"")
        assert "--sign signs the manifest, and there is no place beside the image" in err.splitlines()[-1]
    status, _, err = run(machine, "-", "--sign", key, "--manifest", "kept2.json", "--no-encrypt", cwd=folder)
    assert status == 2
    assert "kept2.json.sig: exists already" in err
    status, _, err = run(machine, "-", "--sign", key, "--manifest", "kept3.json", "--no-encrypt", cwd=folder)
    assert (status, err.splitlines()[-1].split(": ")[1]) == (2, "kept3.json.sig.part"), err
    status, out, err = run(machine, "-", "--sign", key, "--manifest", "m.json", "--no-encrypt", cwd=folder)
    assert status == 0, err
    assert joined(out) == machine.memory
    assert (folder / "m.json.sig").is_file()


def test_the_longest_name_that_is_taken_has_all_beside_it(machine: Machine, folder: Path) -> None:
    name = "a" * (255 - len(".custody.jsonl.part"))
    status, _, err = run(machine, name, "--no-encrypt", cwd=folder)
    assert status == 0, err
    assert {name, f"{name}.json", f"{name}.custody.jsonl"} <= set(names(folder))


def test_who_listens_with_tls_is_guessed_where_the_sender_does_without(
    machine: Machine, tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path / "machine", "receiver")
    with receiver(tmp_path, "--tls-cert", cert, "--tls-key", key) as there:
        status, _, err = run(machine, f"tcp:127.0.0.1:{there.port}", "--no-encrypt")
        assert status == 1
        assert "if it listens with TLS, add --tls-ca FILE" in err.splitlines()[-1]
    with receiver(tmp_path) as there:
        status, _, err = run(machine, f"tcp:127.0.0.1:{there.port}", "--tls-ca", cert, "--no-encrypt")
        assert status == 1
        assert err.splitlines()[-1].endswith("speaks no TLS; nothing was sent")
    assert names(tmp_path) == []
