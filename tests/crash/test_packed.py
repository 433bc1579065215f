"""Cores that are packed or encrypted, as systemd-coredump and memdump leave them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from memdump.crash.explanation import explain
from memdump.crash.unpacked import Unpacked
from memdump.errors import NotADump, NotPermitted
from memdump.report.crash_json import document
from memdump.report.json import encode

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.conftest import Crashed, Explained

PACKERS = {"zstd": ["zstd", "-q", "-c"], "lz4": ["lz4", "-q", "-c"], "xz": ["xz", "-0", "-c"]}


def packed(core: Path, packer: str, folder: Path) -> Path:
    if not shutil.which(packer):
        pytest.skip(f"{packer} is not installed: apt install {packer}")
    target = folder / f"core.{packer}"
    target.write_bytes(subprocess.run([*PACKERS[packer], core], check=True, capture_output=True).stdout)
    return target


@pytest.mark.parametrize("packer", PACKERS)
def test_a_packed_core_says_the_same(
    packer: str, tmp_path: Path, crashed: Crashed, explained: Explained
) -> None:
    path = packed(crashed("null_field").core, packer, tmp_path)
    expected = dataclasses.replace(explained("null_field"), path=str(path), packing=packer)
    assert explain(path) == expected


@pytest.mark.parametrize("packer", PACKERS)
def test_what_is_unpacked_is_the_core_and_leaves_nothing_behind(
    packer: str, tmp_path: Path, crashed: Crashed, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = tmp_path / "large"
    core.write_bytes(crashed("null_field").core.read_bytes() + bytes(5 << 20) + b"end" + bytes(3 << 20))
    path = packed(core, packer, tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    unpacked = Unpacked(path)
    assert unpacked.file.read_bytes() == core.read_bytes()
    assert list(temporary.iterdir()) == []
    unpacked.close()


@pytest.mark.parametrize("packer", PACKERS)
def test_a_packed_core_that_ends_early(
    packer: str, tmp_path: Path, crashed: Crashed, explained: Explained
) -> None:
    path = packed(crashed("stack_overflow").core, packer, tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    try:
        found = explain(path)
    except NotADump as error:
        assert str(path) in str(error)  # all of it was one block
    else:
        assert "ends early" in found.defects[0] or "truncated" in found.defects[0]
        assert found.signal == explained("stack_overflow").signal


def test_an_encrypted_core(tmp_path: Path, crashed: Crashed, explained: Explained) -> None:
    """In a process of its own: one that reads what is encrypted is protected from then on."""
    pyrage = pytest.importorskip("pyrage")
    identity = pyrage.x25519.Identity.generate()
    key, path = tmp_path / "key", tmp_path / "core.age"
    key.write_text(str(identity))
    path.write_bytes(pyrage.encrypt(crashed("null_field").core.read_bytes(), [identity.to_public()]))
    command = [sys.executable, "-m", "memdump", "explain", str(path), "--format", "json"]
    done = subprocess.run([*command, "--identity", str(key)], capture_output=True, text=True, check=True)
    expected = dataclasses.replace(explained("null_field"), path=str(path), packing="age")
    assert json.loads(done.stdout) == json.loads(encode(document(expected)))
    assert subprocess.run(command, capture_output=True, check=False).returncode == NotPermitted.exit_status
