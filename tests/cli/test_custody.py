"""Every command that opens an image adds to its record of custody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memdump.cli import main
from memdump.machine import custody
from tests.image.build import lime


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "web1.lime"
    path.write_bytes(lime([(0x1000, bytes(range(256)) * 64)]))
    return path


def entries(image: Path) -> list[tuple[str, str | None]]:
    lines = Path(f"{image}.custody.jsonl").read_text().splitlines()
    return [(entry["action"], entry["detail"]) for entry in map(json.loads, lines)]


def test_each_command_adds_what_it_does(
    image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    custody.append(str(image), "acquired")
    main(["info", str(image)])
    main(["show", str(image), "processes"])
    main(["query", str(image), "select 1"])
    main(["triage", str(image)])
    main(["export", "isf", str(image), str(tmp_path / "a.json")])
    main(["convert", str(image), str(tmp_path / "web1.raw")])
    main(["verify", str(image)])
    assert entries(image) == [
        ("acquired", None),
        *[("opened", None)] * 4,
        ("exported", None),
        ("converted", f"into {tmp_path}/web1.raw"),
        ("verified", "custody held"),
    ]
    record = custody.check(str(image))
    assert record is not None
    assert (record.faults, record.marked) == ([], record.head)


def test_an_image_without_a_record_gets_none(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["info", str(image)])
    assert list(image.parent.iterdir()) == [image]


def test_a_record_that_cannot_be_written_costs_a_line(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    custody.append(str(image), "acquired")
    status = main(["info", str(image)])
    _, before = capfd.readouterr()
    record = Path(f"{image}.custody.jsonl")
    record.write_bytes(b"hello\n")
    assert main(["info", str(image)]) == status
    _, after = capfd.readouterr()
    line = f"memdump: {record}: this is not recorded: the record is damaged; 'memdump verify' says where\n"
    assert after == line + before


def test_info_shows_the_record(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    custody.append(str(image), "acquired")
    for _ in range(6):
        main(["info", str(image)])
    out, _ = capfd.readouterr()
    shown = out.split("custody")[-1].splitlines()
    assert [line.split()[0] for line in shown] == ["acquired", "(3", "opened", "opened", "opened"]
    Path(f"{image}.custody.jsonl").unlink()
    main(["info", str(image)])
    out, _ = capfd.readouterr()
    assert "custody   the record does not hold: is missing, but the image is marked with entry 7" in out
    main(["info", "--format", "json", str(image)])
    out, _ = capfd.readouterr()
    assert json.loads(out)["custody"]["head"] is None
