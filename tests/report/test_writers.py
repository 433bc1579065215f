"""Every writer, on any rows, judged by somebody else's reader."""

from __future__ import annotations

import csv as python_csv
import io
import json as python_json
import math
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from memdump.report import csv, json, terminal
from memdump.report.text import visible, well_formed, width
from memdump.tables.schema import Column

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)
VALUES: dict[type, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**70), 2**70),
    str: TEXT,
    bool: st.booleans(),
    float: st.floats(),
    datetime: st.datetimes(timezones=st.just(UTC)),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Column], list[tuple[Any, ...]]]:
    kinds = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=12))
    columns = [
        Column(
            f"{draw(st.sampled_from(['pid', 'start_time', 'deleted_executable']))}{index}",
            kind,
            "",
            hexadecimal=kind is int and draw(st.booleans()),
            detail=draw(st.booleans()),
        )
        for index, kind in enumerate(kinds)
    ]
    rows = st.tuples(*(st.none() | VALUES[kind] for kind in kinds))
    return columns, draw(st.lists(rows, max_size=8))


def expected(value: Any) -> Any:
    """The value as a reader of JSON should have it."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, datetime):
        return value.strftime("%Y").zfill(4) + value.strftime("-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@given(tables())
def test_json_is_read_back_exactly(table: tuple[list[Column], list[tuple[Any, ...]]]) -> None:
    columns, rows = table
    wanted = [{c.name: expected(v) for c, v in zip(columns, row, strict=True)} for row in rows]
    array, lines = io.StringIO(), io.StringIO()
    json.write_array(columns, rows, array)
    json.write_lines(columns, rows, lines)
    assert python_json.loads(array.getvalue()) == wanted
    assert [python_json.loads(line) for line in lines.getvalue().split("\n")[:-1]] == wanted
    assert all(c == "\n" or c.isprintable() for c in array.getvalue() + lines.getvalue())


@given(tables())
def test_csv_is_read_back(table: tuple[list[Column], list[tuple[Any, ...]]]) -> None:
    columns, rows = table
    out = io.StringIO()
    csv.write(columns, rows, out)
    assert all(c == "\n" or c.isprintable() for c in out.getvalue())
    names, *found = python_csv.reader(io.StringIO(out.getvalue()))
    assert names == [column.name for column in columns]
    for row, fields in zip(rows, found, strict=True):
        for value, field in zip(row, fields, strict=True):
            if isinstance(value, str):
                assert field == visible(value)
            elif isinstance(value, bool):
                assert field == str(value).lower()
            elif isinstance(value, int):
                assert int(field) == value
            elif value is None:
                assert field == ""


@settings(max_examples=300)
@given(tables(), st.integers(40, 200), st.booleans())
def test_a_table_fits_its_room_and_is_safe(
    table: tuple[list[Column], list[tuple[Any, ...]]], room: int, chosen: bool
) -> None:
    columns, rows = table
    out = io.StringIO()
    notes = terminal.write(columns, rows, out, room=room, chosen=chosen)
    lines = out.getvalue().split("\n")[:-1]
    assert all(line.isprintable() for line in lines)
    assert all(width(line) <= room for line in lines) or room < 60
    said = " ".join(notes)
    shown = "".join(lines[0].split()) + "".join(lines[1].split() if len(lines) > 1 else ())
    assert chosen or said or shown


@given(tables())
def test_without_a_room_nothing_is_cut_or_left_out(table: tuple[list[Column], list[tuple[Any, ...]]]) -> None:
    columns, rows = table
    out = io.StringIO()
    assert terminal.write(columns, rows, out) == []
    text = out.getvalue()
    for column in columns:
        assert column.name in text
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            if isinstance(value, str):
                assert visible(value).rstrip() in text
            elif isinstance(value, int) and not isinstance(value, bool):
                assert (f"{value:#x}" if column.hexadecimal else str(value)) in text


def column(name: str, kind: type = str, **more: bool) -> Column:
    return Column(name, kind, "", **more)


def written(columns: list[Column], rows: list[tuple[Any, ...]], **how: Any) -> tuple[list[str], list[str]]:
    out = io.StringIO()
    notes = terminal.write(columns, rows, out, **how)
    return out.getvalue().splitlines(), notes


def test_numbers_stand_to_the_right_and_names_over_their_columns() -> None:
    lines, notes = written([column("pid", int), column("name")], [(1, "init"), (1234, "sshd")], room=100)
    assert lines == [" pid  name", "   1  init", "1234  sshd"]
    assert notes == []


def test_long_names_of_narrow_columns_are_broken() -> None:
    columns = [column("pid", int), column("kernel_thread", bool), column("text")]
    lines, _ = written(columns, [(n, False, "x" * 40) for n in range(5)], room=50)
    assert lines[:3] == ["     kernel_", "pid  thread   text", "  0  no       " + "x" * 36]


def test_columns_without_room_are_named_the_silent_and_the_details_first() -> None:
    columns = [
        column("pid", int),
        column("tty"),
        column("group", detail=True),
        column("name"),
        column("path"),
    ]
    rows = [(n, None, "g" * 30, "n" * 30, "p" * 30) for n in range(5)]
    lines, notes = written(columns, rows, room=60)
    assert lines[0].split() == ["pid", "name", "path"]
    assert notes[0].startswith("no room for tty, group:")


def test_few_rows_that_do_not_fit_are_records() -> None:
    columns = [column("hostname"), column("command_line"), column("cpus", int)]
    lines, notes = written(columns, [("web1", "quiet " * 20, 1), ("web2", "", 2)], room=60)
    assert lines[0] == "hostname      web1"
    assert lines[1] == "command_line  quiet quiet quiet quiet quiet quiet quiet"
    assert lines[2] == "              quiet quiet quiet quiet quiet quiet quiet"
    assert lines[4:7] == ["cpus          1", "", "hostname      web2"]
    assert notes == []


def test_few_rows_with_columns_that_have_no_room_are_records() -> None:
    columns = [column(name, int, detail=True) for name in ("pid", "session_id", "namespace", "inode_number")]
    lines, _ = written(columns, [(1, 2, 3, 4)], room=30)
    assert lines == ["pid           1", "session_id    2", "namespace     3", "inode_number  4"]


def test_the_last_text_is_wrapped_under_itself() -> None:
    columns = [column("level", int), column("text")]
    lines, notes = written(columns, [(n, "word " * 12) for n in range(4)], room=50)
    assert lines[1:3] == ["    0  " + "word " * 7 + "word", "       word word word word"]
    assert notes == []


def test_rows_behind_the_sample_are_written_too() -> None:
    rows = [(n, "x") for n in range(3000)] + [(3000, "y" * 80)]
    lines, _ = written([column("n", int), column("name")], rows, room=40)
    assert len(lines) == 3002
    assert max(map(len, lines)) <= 40
    assert lines[-1].endswith("…")
