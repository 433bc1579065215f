"""The commands on the images of real guests, whose processes have names that attack terminals."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

from memdump import tables
from memdump.cli import main
from tests.conftest import made
from tests.tables import proc

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.guests import Made

pq = pytest.importorskip("pyarrow.parquet")


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that succeeds writes."""
    capfd.readouterr()
    status = main(arguments)
    out, err = capfd.readouterr()
    assert (status, err) == (0, "")
    return out


def test_triage_marks_what_the_scenario_hides(guest: Made, capfd: pytest.CaptureFixture[str]) -> None:
    out = run(capfd, "triage", str(guest.qmp_image))
    lines = out.splitlines()
    assert lines[0] == "MACHINE    victim"
    assert all(line.isprintable() and len(line) <= 100 for line in lines)
    marked = {
        int(line.split()[1]): line
        for line in lines
        if line.startswith("  ! ") and line.split()[1].isdecimal()
    }
    expected = {
        "look_alike": "deleted executable, looks like a kernel thread",
        "kernel_name": "looks like a kernel thread",
        "memfd": "runs from a memfd",
        "effective": "acts as uid 33",
    }
    for role, said in expected.items():
        assert f"  {said}  " in marked[proc.role(guest, role)]
    typed = [command for of_one in guest.truth["scenario"]["history"].values() for command in of_one]
    assert sum(any(line.endswith("  " + one["command"]) for line in lines) for one in typed) >= 3


def test_info_tells_the_kernel_and_the_manifest(guest: Made, capfd: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capfd, "info", str(guest.lime_image), "--format", "json"))
    assert found["format"] == "lime"
    assert found["manifest"]["host"] == "victim"
    assert (
        found["kernel"]["release"]
        == json.loads(guest.lime_image.with_name("memory.lime.json").read_text())["host"]["kernel_release"]
    )


@pytest.mark.parametrize("table", [name for name in tables.BUILT_IN if name != "problems"])
@pytest.mark.lab
def test_every_format_holds_the_same_rows(
    table: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = str(made("6.12").qmp_image)
    rows = json.loads(run(capfd, "show", image, table, "--format", "json"))
    assert [
        json.loads(line) for line in run(capfd, "show", image, table, "--format", "jsonl").split("\n")[:-1]
    ] == rows
    text = run(capfd, "show", image, table, "--format", "csv")
    assert len(list(csv.DictReader(io.StringIO(text)))) == len(rows)
    shown = run(capfd, "show", image, table)
    assert all(c == "\n" or c.isprintable() for c in shown + text)
    run(capfd, "show", image, table, "--format", "parquet", "--output", str(tmp_path / "rows"))
    stored = pq.read_table(tmp_path / "rows")
    assert stored.column_names == [column.name for column in tables.find(table).columns]
    for name, kind in ((column.name, column.type) for column in tables.find(table).columns):
        if kind in (int, str, bool):
            assert stored.column(name).to_pylist() == [row[name] for row in rows]
