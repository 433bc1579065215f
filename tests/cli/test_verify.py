"""``memdump verify`` on what ``memdump acquire`` wrote, beside sha256sum, ssh-keygen, age and zstd."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from memdump.cli import main
from memdump.machine import custody, manifest
from tests.cli.test_acquire import SLOW, start, wait_for
from tests.cli.test_acquire import run as acquire
from tests.image.build import lime
from tests.machine.fake_kcore import make
from tests.process.targets import begun

for program in ("age-keygen", "age", "zstd", "ssh-keygen", "sha256sum"):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed", allow_module_level=True)


class Found(NamedTuple):
    status: int
    results: dict[str, str]
    details: dict[str, str]
    head: dict[str, Any] | None
    err: str


Verify = Callable[..., Found]


@pytest.fixture
def verify(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Verify:
    monkeypatch.delenv("MEMDUMP_IDENTITY", raising=False)

    def verify(*arguments: str | Path) -> Found:
        capfd.readouterr()
        status = main(["verify", "--format", "json", *map(str, arguments)])
        out, err = capfd.readouterr()
        found = json.loads(out) if out else {"checks": [], "custody_head": None, "holds": False}
        assert found["holds"] == (status == 0)
        results = {check["check"]: check["result"] for check in found["checks"]}
        details = {check["check"]: check["detail"] for check in found["checks"]}
        return Found(status, results, details, found["custody_head"], err)

    return verify


class Evidence(NamedTuple):
    folder: Path
    age_key: Path
    ssh_key: Path


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """One machine, acquired in every way."""
    folder = tmp_path_factory.mktemp("taken")
    (folder / "machine").mkdir()
    machine = make(folder / "machine")
    age_key, ssh_key = folder / "age.key", folder / "ssh"
    subprocess.run(["age-keygen", "-o", age_key], check=True, capture_output=True)
    shown = subprocess.run(["age-keygen", "-y", age_key], check=True, capture_output=True, text=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada", "-f", ssh_key], check=True)
    images = folder / "images"
    images.mkdir()
    for name, options in (
        ("plain.lime", []),
        ("packed.lime.zst", []),
        ("sealed.lime.zst.age", ["--recipient", shown.stdout.strip(), "--sign", str(ssh_key)]),
        ("split.lime.zst", ["--split", "1M", "--sign", str(ssh_key)]),
        ("splitsealed.lime.zst.age", ["--split", "1M", "--recipient", shown.stdout.strip()]),
        ("splitplain.lime", ["--split", "1M"]),
    ):
        status, _, err = acquire(machine, images / name, *options)
        assert status == 0, err
    return Evidence(images, age_key, ssh_key)


@pytest.fixture
def evidence(taken: Evidence, tmp_path: Path) -> Evidence:
    """A copy that a test may spoil; extended attributes go with it."""
    subprocess.run(["cp", "-a", taken.folder, tmp_path / "images"], check=True)
    return taken._replace(folder=tmp_path / "images")


def sha256sum(*paths: Path) -> str:
    data = b"".join(path.read_bytes() for path in paths)
    return subprocess.run(["sha256sum"], input=data, capture_output=True, check=True).stdout[:64].decode()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_plain_image_holds(evidence: Evidence, verify: Verify) -> None:
    image = evidence.folder / "plain.lime"
    found = verify(image)
    assert found.status == 0
    assert found.results == {
        "manifest": "ok",
        "file": "ok",
        "stream": "ok",
        "copy": "not checked",
        "signature": "not checked",
        "custody": "ok",
    }
    assert sha256sum(image) in found.details["file"]


def test_a_sealed_image_holds_down_to_its_memory(evidence: Evidence, verify: Verify, tmp_path: Path) -> None:
    image = evidence.folder / "sealed.lime.zst.age"
    found = verify(image, "--identity", evidence.age_key, "--signer", f"{evidence.ssh_key}.pub")
    assert set(found.results.values()) == {"ok"}
    assert found.status == 0
    subprocess.run(["age", "-d", "-i", evidence.age_key, "-o", tmp_path / "z", image], check=True)
    subprocess.run(["zstd", "-dq", tmp_path / "z", "-o", tmp_path / "lime"], check=True)
    assert sha256sum(tmp_path / "lime") in found.details["stream"]
    assert sha256sum(image) in found.details["file"]


def test_without_the_key_the_file_holds_and_the_rest_is_not_checked(
    evidence: Evidence, verify: Verify
) -> None:
    found = verify(evidence.folder / "sealed.lime.zst.age")
    assert found.status == 0
    assert (found.results["file"], found.results["stream"]) == ("ok", "not checked")
    assert "is encrypted" in found.details["stream"]
    assert "whose that is" in found.details["signature"]


def test_with_a_wrong_key_the_memory_is_not_verified(
    evidence: Evidence, verify: Verify, tmp_path: Path
) -> None:
    subprocess.run(["age-keygen", "-o", tmp_path / "other"], check=True, capture_output=True)
    found = verify(evidence.folder / "sealed.lime.zst.age", "--identity", tmp_path / "other")
    assert (found.status, found.results["stream"]) == (1, "FAILED")


@pytest.mark.parametrize("name", ["split.lime.zst", "split.lime.zst.000", "split.lime.zst.001"])
def test_an_image_in_pieces_holds(evidence: Evidence, verify: Verify, name: str) -> None:
    found = verify(evidence.folder / name)
    pieces = sorted(evidence.folder.glob("split.lime.zst.00?"))
    assert len(pieces) > 1
    assert found.status == 0, found
    assert sha256sum(*pieces) in found.details["file"]
    assert [found.results[name] for name in ("stream", "copy", "custody")] == ["ok"] * 3
    assert os.getxattr(pieces[0], custody.ATTRIBUTE).split()[0] == b"2"


SPLIT = ["split.lime.zst", "splitsealed.lime.zst.age", "splitplain.lime"]


def pieces_of(image: Path) -> list[Path]:
    return sorted(
        path for path in image.parent.iterdir() if path.stem == image.name and path.suffix[1:].isdigit()
    )


@pytest.mark.parametrize("name", SPLIT)
def test_each_piece_has_its_own_digest_in_the_manifest(evidence: Evidence, name: str) -> None:
    pieces = pieces_of(evidence.folder / name)
    written = json.loads((evidence.folder / f"{name}.json").read_text())["written"]
    assert len(pieces) >= 3
    assert written["parts"] == [
        {"name": piece.name, "size": piece.stat().st_size, "sha256": sha256sum(piece)} for piece in pieces
    ]
    assert (written["name"], written["sha256"]) == (name, sha256sum(*pieces))


@pytest.mark.parametrize("name", SPLIT)
def test_which_piece_is_at_fault_is_told(evidence: Evidence, verify: Verify, name: str) -> None:
    image, key = evidence.folder / name, ("--identity", evidence.age_key)
    first, second, *_, last = pieces_of(image)
    found = verify(image, *key)
    assert (found.status, found.results["file"], found.results["stream"]) == (0, "ok", "ok")

    def fault(said: str) -> None:
        found = verify(image, *key)
        assert (found.status, found.results["file"]) == (1, "FAILED")
        assert found.results["stream"] != "ok"
        assert found.details["file"] == said

    whole = {piece: piece.read_bytes() for piece in (first, second, last)}
    for piece, data in whole.items():
        before = sha256sum(piece)
        flip(piece, len(data) // 3)
        fault(f"{piece.name} was changed: SHA-256 {sha256sum(piece)}; the manifest says {before}")
        for other in (data[:-1], data + b"x", b""):
            piece.write_bytes(other)
            fault(f"{piece.name} has {len(other):,} bytes; {len(data):,} were written")
        piece.unlink()
        fault(f"{piece.name} is missing; copy it beside the others")
        piece.mkdir()
        assert f"{piece.name} " in verify(image, *key).details["file"]
        piece.rmdir()
        piece.write_bytes(data)
    first.write_bytes(whole[second])
    second.write_bytes(whole[first])
    swapped = [(first.name, second.name), (second.name, first.name)]
    fault("; ".join(f"{one} holds what belongs into {other}" for one, other in swapped))
    first.write_bytes(whole[first])
    second.write_bytes(whole[second])
    more = image.with_name(f"{name}.{len(pieces_of(image)):03}")
    more.write_bytes(b"more")
    count = len(pieces_of(image)) - 1
    fault(f"{more.name} is none of its {count} pieces")
    more.unlink()
    found = verify(image, *key)
    assert (found.results["file"], found.results["stream"]) == ("ok", "ok")


def test_pieces_of_another_name_or_put_together_are_the_same_image(
    evidence: Evidence, verify: Verify
) -> None:
    image = evidence.folder / "split.lime.zst"
    beside, joined = f"{image}.json", evidence.folder / "one.lime.zst"
    joined.write_bytes(b"".join(piece.read_bytes() for piece in pieces_of(image)))
    assert verify(joined, "--manifest", beside).results["file"] == "ok"
    for piece in pieces_of(image):
        piece.rename(piece.with_name(f"case7{piece.suffix}"))
    found = verify(evidence.folder / "case7", "--manifest", beside, "--signer", f"{evidence.ssh_key}.pub")
    assert [found.results[name] for name in ("file", "stream", "copy", "signature")] == ["ok"] * 4


def test_pieces_that_a_manifest_tells_wrongly_do_not_hold(evidence: Evidence, verify: Verify) -> None:
    image = evidence.folder / "splitplain.lime"
    known = json.loads(Path(f"{image}.json").read_text())
    edit(Path(f"{image}.json"), written={**known["written"], "sha256": "0" * 64})
    found = verify(image)
    assert (found.status, found.results["file"]) == (1, "FAILED")
    assert found.details["file"].startswith("the manifest gives the whole another SHA-256")


@pytest.mark.parametrize("name", ["plain.lime", "packed.lime.zst", "sealed.lime.zst.age", "split.lime.zst"])
def test_any_other_byte_is_found(evidence: Evidence, verify: Verify, name: str) -> None:
    image = evidence.folder / name
    file = image if image.exists() else evidence.folder / f"{name}.001"
    flip(file, file.stat().st_size // 2)
    found = verify(image, "--identity", evidence.age_key)
    assert found.status == 1
    assert (found.results["file"], found.results["stream"]) == ("FAILED", "FAILED")
    assert "the manifest says" in found.details["file"]


def test_a_file_that_was_cut_off_or_grew_is_found(evidence: Evidence, verify: Verify) -> None:
    for name in ("plain.lime", "packed.lime.zst"):
        image = evidence.folder / name
        whole = image.read_bytes()
        for other in (whole[:-1], whole + b"\0"):
            image.write_bytes(other)
            found = verify(image)
            assert (found.status, found.results["file"]) == (1, "FAILED")
            assert f"{len(whole):,} were written" in found.details["file"]


def test_a_stream_whose_layers_were_taken_off_still_holds(
    evidence: Evidence, verify: Verify, tmp_path: Path
) -> None:
    image = tmp_path / "web1.lime"
    subprocess.run(["zstd", "-dq", evidence.folder / "packed.lime.zst", "-o", image], check=True)
    beside = evidence.folder / "packed.lime.zst.json"
    found = verify(image, "--manifest", beside)
    assert (found.status, found.results["file"], found.results["stream"]) == (0, "not checked", "ok")
    flip(image, 1000)
    found = verify(image, "--manifest", beside)
    assert (found.status, found.results["stream"]) == (1, "FAILED")


def test_a_manifest_that_was_changed_is_found(evidence: Evidence, verify: Verify) -> None:
    image = evidence.folder / "sealed.lime.zst.age"
    keys = ("--identity", evidence.age_key, "--signer", f"{evidence.ssh_key}.pub")
    edit(Path(f"{image}.json"), source="elsewhere")
    found = verify(image, *keys)
    assert (found.status, found.results["copy"], found.results["signature"]) == (1, "FAILED", "FAILED")
    assert found.details["copy"].endswith("has another source")
    Path(f"{image}.json").write_text("{}")
    found = verify(image, *keys)
    assert (found.status, found.results["manifest"], found.results["signature"]) == (1, "FAILED", "FAILED")


def test_a_file_whose_digest_was_changed_with_it_contradicts_the_record(
    evidence: Evidence, verify: Verify
) -> None:
    image = evidence.folder / "plain.lime"
    flip(image, 1000)
    known = manifest.load(f"{image}.json")
    assert known.written is not None
    digest = sha256sum(image)
    forged = known._replace(
        written=known.written._replace(sha256=digest), stream=known.stream._replace(sha256=digest)
    )
    Path(f"{image}.json").write_text(forged.to_json())
    found = verify(image)
    assert (found.results["file"], found.results["stream"]) == ("ok", "ok")
    assert (found.status, found.results["custody"]) == (1, "FAILED")
    assert "entry 1 is about a file with the SHA-256" in found.details["custody"]


def test_ssh_keygen_accepts_the_signature_and_refuses_what_was_tampered_with(evidence: Evidence) -> None:
    image = evidence.folder / "sealed.lime.zst.age"
    allowed = evidence.folder / "allowed"
    allowed.write_text(f"ada@lab {Path(f'{evidence.ssh_key}.pub').read_text()}")
    command = ["ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "ada@lab", "-n", "memdump"]
    command += ["-s", f"{image}.json.sig"]
    data = Path(f"{image}.json").read_bytes()
    assert subprocess.run(command, input=data, capture_output=True).returncode == 0  # type: ignore[arg-type]
    tampered = data.replace(b"kcore", b"other")
    assert subprocess.run(command, input=tampered, capture_output=True).returncode  # type: ignore[arg-type]


def test_who_signed_is_told_and_who_may_not_is_refused(
    evidence: Evidence, verify: Verify, tmp_path: Path
) -> None:
    image = evidence.folder / "sealed.lime.zst.age"
    public = Path(f"{evidence.ssh_key}.pub").read_text()
    (tmp_path / "allowed").write_text(f"ada@lab {public}")
    found = verify(image, "--allowed-signers", tmp_path / "allowed")
    assert (found.status, found.results["signature"]) == (0, "ok")
    assert found.details["signature"].startswith("by ada@lab, with ED25519 key SHA256:")
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", tmp_path / "other"], check=True)
    found = verify(image, "--signer", tmp_path / "other.pub")
    assert (found.status, found.results["signature"]) == (1, "FAILED")


def test_a_signature_that_is_asked_for_must_be_there(evidence: Evidence, verify: Verify) -> None:
    signer = ("--signer", f"{evidence.ssh_key}.pub")
    found = verify(evidence.folder / "plain.lime", *signer)
    assert (found.status, found.results["signature"]) == (1, "FAILED")
    Path(f"{evidence.folder}/sealed.lime.zst.age.json").unlink()
    found = verify(evidence.folder / "sealed.lime.zst.age", *signer)
    assert (found.status, found.results["signature"]) == (1, "FAILED")


def test_a_manifest_that_could_not_be_signed_can_be_signed_later(verify: Verify, tmp_path: Path) -> None:
    image, key = tmp_path / "web1.lime", tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-N", "open sesame", "-t", "ed25519", "-f", key], check=True)
    (tmp_path / "machine").mkdir()
    nobody_asked = {**os.environ, "SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force"}
    status, out, err = acquire(make(tmp_path / "machine"), image, "--sign", key, env=nobody_asked)
    assert (status, out.decode()) == (1, f"{image}\n")
    assert (
        f"{key}: the passphrase is wrong, or there was no terminal to ask for it; the manifest is not" in err
    )
    assert verify(image, "--signer", f"{key}.pub").results["signature"] == "FAILED"
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "open sesame", "-N", "", "-f", key], check=True)
    (later,) = [part for part in err.split("'") if part.startswith("ssh-keygen")]
    command = later.replace("KEY", str(key)).replace("MANIFEST", f"{image}.json").split()
    subprocess.run(command, check=True, capture_output=True)
    assert verify(image, "--signer", f"{key}.pub").results["signature"] == "ok"


def test_wrong_usage_is_told(evidence: Evidence, verify: Verify, tmp_path: Path) -> None:
    image = evidence.folder / "sealed.lime.zst.age"
    both = verify(image, "--signer", "a", "--allowed-signers", "b")
    assert (both.status, both.err) == (2, "memdump: --signer and --allowed-signers: give one of them\n")
    none = verify(image, "--signer", tmp_path / "none")
    assert none.status == 2
    assert "No such file" in none.err
    absent = verify(image, "--manifest", tmp_path / "none.json")
    assert absent.status == 3


def test_custody_is_checked_and_the_verification_entered(evidence: Evidence, verify: Verify) -> None:
    image = evidence.folder / "plain.lime"
    record = Path(f"{image}.custody.jsonl")
    first, second = verify(image), verify(image)
    assert [first.head and first.head["number"], second.head and second.head["number"]] == [2, 3]
    lines = record.read_bytes().splitlines(keepends=True)
    (record.parent / "last").write_bytes(lines[-1])
    assert second.head and second.head["sha256"] == sha256sum(record.parent / "last")
    entry = json.loads(lines[-1])
    assert (entry["action"], entry["image"]["sha256"]) == ("verified", sha256sum(image))
    assert entry["detail"] == "manifest, file, stream, custody held"
    record.write_bytes(b"".join(lines[:-1]))
    found = verify(image)
    assert (found.status, found.results["custody"]) == (1, "FAILED")
    assert (
        found.details["custody"] == "ends with entry 2, but the image is marked with 3: the last are missing"
    )
    entry = json.loads(record.read_bytes().splitlines()[-1])
    assert entry["detail"] == "manifest, file, stream held; custody did not"


def test_a_record_that_cannot_be_written_costs_a_line(
    evidence: Evidence, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = evidence.folder / "plain.lime"

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(custody, "_opened", refuse)
    found = verify(image)
    assert (found.status, found.head) == (0, None)
    assert found.err == f"memdump: {image}.custody.jsonl: this is not recorded: Read-only file system\n"


def test_an_image_from_elsewhere_gets_a_record_when_asked(verify: Verify, tmp_path: Path) -> None:
    image = tmp_path / "foreign.lime"
    image.write_bytes(lime([(0x1000, bytes(range(256)) * 32)]))
    found = verify(image)
    assert (found.status, set(found.results.values())) == (1, {"not checked"})
    assert list(tmp_path.iterdir()) == [image]
    begun = verify(image, "--start-record")
    assert (begun.status, begun.results["custody"]) == (0, "ok")
    entry = json.loads((tmp_path / "foreign.lime.custody.jsonl").read_bytes().splitlines()[0])
    assert (entry["action"], entry["image"]["sha256"]) == ("received", sha256sum(image))
    again = verify(image)
    assert (again.status, again.results["file"], again.results["custody"]) == (0, "ok", "ok")
    flip(image, 100)
    spoilt = verify(image)
    assert (spoilt.status, spoilt.results["file"]) == (1, "FAILED")


def stopped(taken: Evidence, name: str, *options: str) -> Path:
    """An image whose acquisition was stopped in the middle, signed."""
    machine = make(taken.folder.parent / "machine")
    process = start(machine, taken.folder / name, "--sign", taken.ssh_key, *options, pause=SLOW)
    part = taken.folder / f"{name}{'.001' if options else ''}.part"
    wait_for(part, 100_000)
    process.terminate()
    process.communicate(timeout=60)
    return part


@pytest.fixture
def alone(evidence: Evidence) -> Evidence:
    """A folder with keys and a machine for further images."""
    (evidence.folder.parent / "machine").mkdir()
    return evidence


@pytest.mark.parametrize("options", [(), ("--split", "1M")])
def test_a_partial_image_holds_and_nothing_can_be_put_behind_it(
    alone: Evidence, verify: Verify, options: tuple[str, ...]
) -> None:
    part = stopped(alone, "stopped.lime", *options)
    image = alone.folder / "stopped.lime.part"
    found = verify(image, "--signer", f"{alone.ssh_key}.pub")
    assert found.status == 0, found
    assert "incomplete: stopped by SIGTERM" in found.details["manifest"]
    with part.open("ab") as file:  # a forged page, as LiME has it
        file.write(lime([(0x10000000, b"forged" * 683)]))
    found = verify(image, "--signer", f"{alone.ssh_key}.pub")
    assert (found.status, found.results["file"]) == (1, "FAILED")
    assert "bytes; " in found.details["file"]


def test_a_partial_image_has_no_pieces_but_those_that_were_written(alone: Evidence, verify: Verify) -> None:
    stopped(alone, "stopped.lime", "--split", "1M")
    extra = alone.folder / f"stopped.lime.{len(list(alone.folder.glob('stopped.lime.0*'))):03}.part"
    extra.write_bytes(lime([(0x10000000, bytes(4096))]))
    found = verify(alone.folder / "stopped.lime.part")
    assert (found.status, found.results["file"]) == (1, "FAILED")
    assert f"{extra.name} is none of its" in found.details["file"]


@pytest.mark.parametrize("options", [(), ("--split", "1M")])
def test_an_image_that_was_stopped_before_its_first_byte_is_checked_as_others_are(
    alone: Evidence, verify: Verify, options: tuple[str, ...]
) -> None:
    stopped(alone, "stopped.lime", *options)
    for part in alone.folder.glob("stopped.lime.0*[1-9].part"):
        part.unlink()
    part = alone.folder / f"stopped.lime{'.000' if options else ''}.part"
    part.write_bytes(b"")
    told = alone.folder / "stopped.lime.json"
    record, nothing = json.loads(told.read_text()), {"size": 0, "sha256": sha256sum(part)}
    parts = [{**piece, **nothing} for piece in record["written"]["parts"][:1]]
    written = {**record["written"], **nothing, "parts": parts}
    edit(told, written=written, stream={**record["stream"], **nothing}, not_taken=record["ranges"])
    found = verify(alone.folder / "stopped.lime.part")
    assert (found.results["file"], found.results["stream"]) == ("ok", "ok"), found
    part.write_bytes(lime([(0x10000000, b"forged" * 683)]))
    assert verify(alone.folder / "stopped.lime.part").results["file"] == "FAILED"


def test_a_core_that_was_stopped_is_not_said_to_have_met_a_failed_destination(
    verify: Verify, tmp_path: Path
) -> None:
    core = tmp_path / "a.core"
    with begun(["sleep", "99"]) as target:
        assert main(["process", str(target.pid), str(core)]) == 0
    core.rename(f"{core}.part")
    Path(f"{core}.custody.jsonl").unlink()
    edit(Path(f"{core}.json"), complete=False, stopped_by="stopped by SIGINT")
    found = verify(Path(f"{core}.part"))
    assert found.results["stream"] == "not checked"
    assert "none was taken of the core when it was written" in found.details["stream"]


def test_what_is_no_image_is_told(verify: Verify, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello world, this is a text and no image of any memory at all\n" * 9)
    (tmp_path / "empty").write_bytes(b"")
    for path in (tmp_path, tmp_path / "none", tmp_path / "empty", tmp_path / "notes.txt"):
        found = verify(path)
        assert found.status == 3
        assert found.err.startswith(f"memdump: {path}: ")
        assert found.err.count("\n") == 1


def test_for_people_there_is_a_line_for_each_check(
    evidence: Evidence, capfd: pytest.CaptureFixture[str]
) -> None:
    image = evidence.folder / "packed.lime.zst"
    flip(image, 5000)
    edit(Path(f"{image}.json"), source="\x1b[31mred")
    assert main(["verify", str(image)]) == 1
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert [line[:24].split("  ")[0] for line in lines[:6]] == [
        *("ok", "FAILED", "FAILED", "FAILED"),
        *("not checked", "ok"),
    ]
    assert lines[6].split()[:2] == ["head", "2"]
    assert "\x1b" not in out
    assert err == ""
