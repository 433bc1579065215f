"""``memdump acquire`` whose image finds no place in the middle, when all queues are full."""

from __future__ import annotations

import hashlib
import json
import re
import resource
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memdump
from memdump.cli import main
from tests.cli.test_acquire import names, run
from tests.machine.fake_kcore import PAGE, make
from tests.machine.test_acquire import joined

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.machine.fake_kcore import Machine

MIB = 1 << 20
LIMIT = 20_000_000
LAYERS = ("", ".zst", ".age", ".zst.age")

for program in ("age-keygen", "age", "zstd", "ssh-keygen"):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine whose memory cannot be compressed."""
    return make(tmp_path_factory.mktemp("noise"), 64 * MIB)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    """An age identity, its recipient, and an SSH key."""
    folder = tmp_path_factory.mktemp("keys")
    subprocess.run(["age-keygen", "-o", folder / "age"], check=True, capture_output=True)
    (recipient,) = re.findall(r"age1\w+", (folder / "age").read_text())
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "ssh"], check=True)
    return folder / "age", recipient, folder / "ssh"


def limited(size: int) -> Callable[[], None]:
    """Makes a child whose files cannot grow beyond a size."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("layers", LAYERS)
def test_a_disk_that_fails_leaves_a_part_with_all_that_belongs_to_it(
    noise: Machine, tmp_path: Path, keys: tuple[Path, str, Path], layers: str
) -> None:
    image = tmp_path / f"web1.lime{layers}"
    to = ["--recipient", keys[1]] if "age" in layers else ["--no-encrypt"]
    status, out, err = run(noise, image, *to, "--sign", keys[2], preexec_fn=limited(LIMIT))
    assert (status, out) == (1, b""), err
    assert names(tmp_path) == [
        f"{image.name}{end}" for end in (".custody.jsonl", ".json", ".json.sig", ".part")
    ]
    manifest = json.loads(Path(f"{image}.json").read_text())
    assert manifest["complete"] is False
    assert "a limit here does not take a file of this size" in manifest["stopped_by"]


@pytest.mark.parametrize("split", [(), ("--split", "3M")])
@pytest.mark.parametrize("layers", LAYERS)
def test_what_a_failed_write_left_behind_is_cut_off(
    noise: Machine, tmp_path: Path, keys: tuple[Path, str, Path], layers: str, split: tuple[str, ...]
) -> None:
    image = tmp_path / f"web1.lime{layers}"
    to = ["--recipient", keys[1]] if "age" in layers else ["--no-encrypt"]
    limit = 2_500_000 if split else LIMIT
    status, _, err = run(noise, image, *to, *split, preexec_fn=limited(limit))
    assert status == 1, err
    manifest = json.loads(Path(f"{image}.json").read_text())["written"]
    parts = sorted(tmp_path.glob("*.part"))
    data = b"".join(part.read_bytes() for part in parts)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (manifest["size"], manifest["sha256"])
    assert 0 < len(data) <= limit
    told = [(f"{part['name']}.part", part["size"]) for part in manifest["parts"]]
    assert told == [(part.name, part.stat().st_size) for part in parts if split]
    assert main(["verify", f"{image}.part"]) == 0
    assert main(["verify", f"{image}.part", "--identity", str(keys[0])]) == 0


def restored(image: Path, key: Path, layers: str) -> bytes:
    """What ``age -d`` and ``zstd -d`` get out of a file that was cut off."""
    data = image.read_bytes()
    if "age" in layers:
        data = subprocess.run(["age", "-d", "-i", key], input=data, capture_output=True).stdout
    if "zst" in layers:
        data = subprocess.run(["zstd", "-dqc"], input=data, capture_output=True).stdout
    return data


@pytest.mark.parametrize("limit", [614_400, LIMIT])
@pytest.mark.parametrize("layers", LAYERS)
def test_only_what_can_be_had_again_counts_as_taken(
    noise: Machine, tmp_path: Path, keys: tuple[Path, str, Path], layers: str, limit: int
) -> None:
    image = tmp_path / f"web1.lime{layers}"
    to = ["--recipient", keys[1]] if "age" in layers else ["--no-encrypt"]
    status, _, err = run(noise, image, *to, preexec_fn=limited(limit))
    assert status == 1, err
    told = json.loads(Path(f"{image}.json").read_text())
    lime = restored(Path(f"{image}.part"), keys[0], layers)
    assert len(lime) >= told["stream"]["size"]
    assert len(lime) - told["stream"]["size"] < 128 << 10  # zstd gives what it can of half a frame
    held = {start: len(data) for start, data in joined(lime[: told["stream"]["size"]]).items()}
    whole = {start: len(data) for start, data in noise.memory.items()}
    missing = {start: whole[start] - held.get(start, 0) // PAGE * PAGE for start in whole}
    assert [[hex(start + whole[start] - size), size] for start, size in missing.items() if size] == told[
        "not_taken"
    ]
    assert (told["stream"]["sha256"] is None) == bool(layers)
    taken = sum(whole.values()) - sum(missing.values())
    assert f"({taken >> 20} of 64 MiB)" in err
    if limit == LIMIT:
        with memdump.open(f"{image}.part", identity=keys[0]) as dump:
            assert dump.image.read(0x1000, 0x1000) == noise.memory[0x1000][:0x1000]


def test_the_steps_are_timed(noise: Machine, tmp_path: Path, keys: tuple[Path, str, Path]) -> None:
    status, _, err = run(noise, tmp_path / "web1.lime.zst.age", "--recipient", keys[1])
    assert status == 0, err
    timings = json.loads((tmp_path / "web1.lime.zst.age.json").read_text())["timings"]
    assert all(0 < timings[name] < timings["total"] for name in ("compressing", "encrypting", "writing"))
