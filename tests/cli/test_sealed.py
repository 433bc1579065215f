"""The commands on sealed images of a real victim."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from memdump.cli import main
from memdump.machine.manifest import path_of
from memdump.machine.output import Output
from memdump.seal import Sealing
from tests.conftest import made

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.lab.guests import Made

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def victim() -> Made:
    return made("6.12")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("age-keygen") is None:
        pytest.skip("age-keygen is not installed: apt install age")
    path = tmp_path_factory.mktemp("keys") / "key"
    subprocess.run(["age-keygen", "-o", path], check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def recipient(key: Path) -> str:
    return subprocess.run(
        ["age-keygen", "-y", key], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def sealed(victim: Made, recipient: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's image as `memdump acquire` seals it: its manifest travels in it."""
    from memdump.image.age import parse_recipients

    path = tmp_path_factory.mktemp("sealed") / "guest.lime.zst.age"
    with Output(path) as out:
        stream = Sealing(True, parse_recipients([recipient])).upon(out)
        stream.write(victim.lime_image.read_bytes())
        manifest = victim.folder / path_of(victim.lime_image.name)
        stream.close(lambda: [manifest.read_bytes()])
        out.commit()
    return path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return run


COMMANDS = [
    ("show", "processes", "--format", "csv"),
    ("query", "select name, count(*) from processes group by name order by name", "--format", "csv"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_answer_as_for_the_plain_image(
    command: tuple[str, ...], victim: Made, sealed: Path, key: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    name, *rest = command
    expected = run(name, victim.lime_image, *rest)
    assert run(name, sealed, *rest, "--identity", key) == expected
    assert expected[0] == 0


def test_the_environment_names_the_key(
    sealed: Path, key: Path, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, error = run("show", sealed, "processes", "--limit", 1)
    assert status == 4
    assert "it is encrypted to an age key" in error
    assert "--identity FILE, or MEMDUMP_IDENTITY=FILE" in error
    assert error.count("\n") == 1
    monkeypatch.setenv("MEMDUMP_IDENTITY", str(key))
    assert run("show", sealed, "processes", "--limit", 1)[0] == 0


def test_triage_says_how_the_image_is_opened_again(
    victim: Made,
    sealed: Path,
    key: Path,
    run: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    status, out, _ = run("triage", "--identity", key, sealed)
    assert status == 0
    plain = run("triage", victim.lime_image)[1]
    assert out.replace(f"{sealed} --identity {key}", str(victim.lime_image)) == plain
    assert f"memdump show {sealed} --identity {key} " in out


def test_info_tells_the_layers_and_the_manifest(
    sealed: Path, key: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    status, out, _ = run("info", sealed, "--identity", key)
    assert status == 0
    assert "in        age (X25519)\n          zstd (seekable, " in out
    assert "manifest  inside the image\n          taken on victim from kcore" in out
    found = json.loads(run("info", sealed, "--identity", key, "--format", "json")[1])
    assert [layer["name"] for layer in found["layers"]] == ["age", "zstd"]
    assert found["file_size"] == sealed.stat().st_size
    assert found["manifest"] is None
    assert found["embedded_manifest"]["host"] == "victim"


def test_info_compares_the_manifests(
    victim: Made, sealed: Path, key: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    image = shutil.copy(sealed, tmp_path / sealed.name)
    beside = tmp_path / path_of(sealed.name)
    text = (victim.folder / path_of(victim.lime_image.name)).read_text()
    beside.write_text(text)
    assert "the one inside the image says the same" in run("info", image, "--identity", key)[1]
    beside.write_text(text.replace('"victim"', '"another"'))
    assert (
        "the one inside the image is of another acquisition, on victim"
        in run("info", image, "--identity", key)[1]
    )


def test_convert_unseals_and_warns(
    victim: Made, sealed: Path, key: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "plain.lime"
    status, printed, error = run("convert", sealed, out, "--identity", key)
    assert (status, printed) == (0, f"{out}\n")
    assert f"{out} is not encrypted" in error
    assert out.read_bytes() == victim.lime_image.read_bytes()


def test_convert_seals(
    victim: Made, recipient: str, key: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "image.lime.zst.age"
    assert run("convert", victim.lime_image, out, "--recipient", recipient) == (0, f"{out}\n", "")
    packed = subprocess.run(["age", "-d", "-i", key, out], check=True, capture_output=True).stdout
    lime = subprocess.run(["zstd", "-dc"], input=packed, check=True, capture_output=True).stdout
    assert lime == victim.lime_image.read_bytes()


def test_a_recipient_is_enough_to_seal(
    victim: Made, recipient: str, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "image.lime"
    status, printed, _ = run("convert", victim.lime_image, out, "--recipient", recipient)
    assert (status, printed) == (0, f"{out}.zst.age\n")
    assert [path.name for path in tmp_path.iterdir()] == ["image.lime.zst.age"]


@pytest.mark.parametrize(
    ("name", "kind"), [("a.lime.zst", "lime"), ("a.raw.zst", "raw"), ("a.core.zst", "elf")]
)
def test_every_format_is_compressed(
    victim: Made, run: Callable[..., tuple[int, str, str]], tmp_path: Path, name: str, kind: str
) -> None:
    out = tmp_path / name
    assert run("convert", victim.lime_image, out)[:2] == (0, f"{out}\n")
    found = json.loads(run("info", out, "--format", "json")[1])
    assert (found["format"], [layer["name"] for layer in found["layers"]]) == (kind, ["zstd"])
    assert found["kernel"]["build_id"]
    assert subprocess.run(["zstd", "-tq", out], check=False).returncode == 0


def test_what_is_converted_keeps_its_manifest(
    sealed: Path, key: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "image.lime.zst"
    assert run("convert", sealed, out, "--identity", key)[0] == 0
    found = json.loads(run("info", out, "--format", "json")[1])
    assert found["embedded_manifest"]["host"] == "victim"
