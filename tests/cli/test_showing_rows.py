"""`show`, `query` and `tables` in every format, judged by other readers of these formats."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import stat
import termios
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from fcntl import ioctl
from struct import pack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

pq = pytest.importorskip("pyarrow.parquet")

Run = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[bytes]"]


def on_a_terminal(start: Start, *arguments: str, columns: int = 100, **environment: str) -> tuple[int, str]:
    """What a terminal of so many columns gets to see of a command, and its status."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, pack("HHHH", 40, columns, 0, 0))
    process = start(*arguments, environment=environment, stdout=follower, stderr=follower)
    os.close(follower)
    seen = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not data:
            break
        seen += data
    os.close(leader)
    return process.wait(), seen.decode().replace("\r\n", "\n")


def test_json_is_one_array_with_exact_values(run: Run) -> None:
    status, out, _ = run("show", "a.dump", "ships", "--format", "json")
    assert status == 0
    first, second, third = json.loads(out)
    assert first == {
        "number": 1,
        "name": "\x1b[31mred\x1b[0m\r\n\u202egpj.exe\x9b2J\\xff",
        "arrived": "2024-02-29T23:59:59.000005Z",
        "afloat": True,
        "draught": 0.5,
        "berth": 0xFFFF888003A54000,
        "cargo": 2**64,
    }
    assert list(first) == ["number", "name", "arrived", "afloat", "draught", "berth", "cargo"]
    assert second == {
        "number": 2,
        "name": "日本丸",
        "arrived": None,
        "afloat": False,
        "draught": None,
        "berth": None,
        "cargo": None,
    }
    assert third["arrived"] == "1969-12-31T00:00:00.000000Z"
    assert "日本丸" in out


def test_jsonl_is_an_object_per_line(run: Run) -> None:
    lines = run("show", "a.dump", "crew", "--format", "jsonl").out.splitlines()
    assert len(lines) == 5000
    assert json.loads(lines[-1]) == {"number": 2, "sailor": "sailor 4999"}


def test_json_of_nothing_is_an_empty_array(run: Run) -> None:
    assert json.loads(run("show", "a.dump", "ships", "--limit", "0", "--format", "json").out) == []


def test_csv_is_a_record_per_line_without_control_characters(run: Run) -> None:
    out = run("show", "a.dump", "ships", "--format", "csv").out
    assert len(out.splitlines()) == 4
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows[0]["name"] == "\\x1b[31mred\\x1b[0m\\r\\n\\u202egpj.exe\\u009b2J\\xff"
    assert rows[0]["berth"] == str(0xFFFF888003A54000)
    assert rows[1] == {
        "number": "2",
        "name": "日本丸",
        "arrived": "",
        "afloat": "false",
        "draught": "",
        "berth": "",
        "cargo": "",
    }


@pytest.mark.parametrize("where", [[], ["--where", "true"]])
def test_parquet_has_exact_integers_and_utc_times(run: Run, tmp_path: Path, where: list[str]) -> None:
    path = tmp_path / "ships.parquet"
    assert run("show", "a.dump", "ships", "--format", "parquet", "--output", str(path), *where).status == 0
    found = pq.read_table(path)
    assert str(found.schema.field("berth").type) == "uint64"
    assert found.column("berth").to_pylist() == [0xFFFF888003A54000, None, 0]
    assert [int(value) if value else None for value in found.column("cargo").to_pylist()] == [
        2**64,
        None,
        2**63 - 1,
    ]
    assert found.schema.field("arrived").type.tz == "UTC"
    assert found.column("arrived").to_pylist()[0] == datetime(2024, 2, 29, 23, 59, 59, 5, tzinfo=UTC)
    assert found.column("name").to_pylist()[:2] == [
        "\x1b[31mred\x1b[0m\r\n\u202egpj.exe\x9b2J\\xff",
        "日本丸",
    ]
    assert found.column("afloat").to_pylist() == [True, False, True]
    assert found.column("draught").to_pylist() == [0.5, None, -1.25]


def test_parquet_goes_through_a_pipe(start: Start) -> None:
    out, err = start("query", "a.dump", "select sum(number) n from crew", "--format", "parquet").communicate()
    assert err == b""
    assert pq.read_table(io.BytesIO(out)).to_pylist() == [{"n": 9999}]


def test_parquet_is_kept_from_a_terminal(start: Start) -> None:
    status, seen = on_a_terminal(start, "show", "a.dump", "ships", "--format", "parquet")
    assert status == 2
    assert "--output FILE" in seen


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv", "parquet"])
def test_an_output_file_is_private_and_holds_what_a_pipe_gets(run: Run, tmp_path: Path, form: str) -> None:
    path = tmp_path / "out"
    status, out, _ = run("show", "a.dump", "crew", "--format", form, "--output", str(path))
    assert (status, out) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if form != "parquet":
        assert path.read_text() == run("show", "a.dump", "crew", "--format", form).out
    assert {entry.name for entry in tmp_path.iterdir()} == {"out", "site"}


def test_an_output_file_is_never_written_over(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("precious")
    assert run("show", "a.dump", "ships", "--output", str(path)).status == 2
    assert path.read_text() == "precious"


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_an_output_file_that_is_not_whole_is_not_left(run: Run, tmp_path: Path, form: str) -> None:
    assert run("show", "a.dump", "faulty", "--format", form, "--output", str(tmp_path / "out")).status == 70
    assert [entry.name for entry in tmp_path.iterdir()] == ["site"]


def test_columns_come_in_the_order_asked_for(run: Run) -> None:
    out = run("show", "a.dump", "ships", "--columns", "berth, number,number", "--format", "csv").out
    assert out.splitlines()[0] == "berth,number"
    assert run("show", "a.dump", "ships", "--columns", "number", "--format", "csv").out == "number\n1\n2\n3\n"


def test_a_condition_is_sql_and_knows_hexadecimal_and_times(run: Run) -> None:
    def numbers(where: str) -> list[int]:
        out = run("show", "a.dump", "ships", "--where", where, "--format", "json", "--columns", "number").out
        return [row["number"] for row in json.loads(out)]

    assert numbers("berth = 0xffff888003a54000") == [1]
    assert numbers("arrived < '2000-01-01' or name = '日本丸'") == [2, 3]
    assert numbers("cargo = 18446744073709551616") == [1]
    assert numbers("name = '0x10' -- a comment") == []
    assert numbers("number in (select number from crew where sailor = 'sailor 1')") == [2]


def test_show_reads_no_more_than_its_limit(run: Run) -> None:
    assert run("show", "a.dump", "endless", "--limit", "3").out.split() == ["name", "again", "again", "again"]


def test_a_query_builds_only_the_tables_it_names(run: Run, harbour: Any) -> None:
    harbour.BUILT.clear()
    assert run("query", "a.dump", "select count(*) from ships").status == 0
    assert harbour.BUILT == ["ships"]
    harbour.BUILT.clear()
    sql = 'select s.number n, count(*) c from Ships s join "crew" using (number) group by 1 order by 1'
    out = run("query", "a.dump", sql, "--format", "csv").out
    assert sorted(harbour.BUILT) == ["crew", "ships"]
    assert out == "n,c\n1,1667\n2,1667\n3,1666\n"


def test_problems_are_what_every_table_lacks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from memdump import tables

    monkeypatch.setattr(tables, "names", lambda: ["wrecks", "ships", "problems"])
    status, out, _ = run("query", "a.dump", 'select "table", place from problems', "--format", "json")
    assert status == 1
    assert json.loads(out) == [
        {"table": "wrecks", "place": "the sea bed"},
        {"table": "wrecks", "place": "everything behind this row"},
    ]


def test_an_empty_table_has_types_too(run: Run, harbour: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harbour, "SHIPS", [])
    out = run(
        "query", "a.dump", "select column_name, column_type from (describe ships)", "--format", "csv"
    ).out
    assert out.splitlines()[1:] == [
        "number,BIGINT",
        "name,VARCHAR",
        "arrived,TIMESTAMP",
        "afloat,BOOLEAN",
        "draught,DOUBLE",
        "berth,UBIGINT",
        "cargo,BIGINT",
    ]


def test_columns_of_the_same_name_are_all_kept(run: Run) -> None:
    out = run("query", "a.dump", "select 1 as a, 2 as a, 3 as A", "--format", "json").out
    assert json.loads(out) == [{"a": 1, "a_1": 2, "A_2": 3}]


def test_json_of_what_only_sql_has(run: Run) -> None:
    sql = """select 1.50 as decimal, [1, null] as list, {'k': 'v'} as struct, 'ab'::blob as bytes,
             'nan'::double as nan, date '2024-01-02' as day,
             timestamptz '2024-01-02 03:04:05+01' as zoned, 170141183460469231731687303715884105727 as huge"""
    (row,) = json.loads(run("query", "a.dump", sql, "--format", "json").out)
    assert row == {
        "decimal": 1.5,
        "list": [1, None],
        "struct": {"k": "v"},
        "bytes": "6162",
        "nan": None,
        "day": "2024-01-02",
        "zoned": "2024-01-02T02:04:05.000000Z",
        "huge": 2**127 - 1,
    }


@pytest.mark.parametrize(
    "sql",
    [
        "select * from '/etc/passwd'",
        "select * from read_csv('/etc/passwd')",
        "select * from read_text('/proc/self/environ')",
        "select * from glob('/*')",
        "copy (select 1) to '{}'",
        "attach '{}'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "select * from 'https://example.org/a.parquet'",
    ],
)
def test_sql_cannot_touch_files_or_the_network(run: Run, tmp_path: Path, sql: str) -> None:
    target = tmp_path / "target"
    result = run("query", "a.dump", sql.format(target))
    assert (result.status, result.out) == (2, "")
    assert not target.exists()


def test_a_table_on_a_terminal_fits_and_holds_no_control_characters(start: Start) -> None:
    status, seen = on_a_terminal(start, "show", "a.dump", "crew", "--limit", "2000", NO_COLOR="1")
    assert status == 0
    assert len(seen.splitlines()) == 2001
    status, seen = on_a_terminal(start, "show", "a.dump", "ships", columns=60, NO_COLOR="1")
    assert status == 0
    assert all(c == "\n" or unicodedata.category(c)[0] != "C" for c in seen)
    assert "\\x1b[31mred" in seen
    assert max(map(len, seen.splitlines())) <= 60


def test_an_address_is_hexadecimal_in_the_answer_to_a_query_too(run: Run) -> None:
    assert run("query", "a.dump", "select berth as b from ships limit 1").out.split() == [
        "b",
        "0xffff888003a54000",
    ]


def test_a_table_is_as_wide_as_its_terminal(start: Start) -> None:
    def widest(columns: int) -> int:
        _, seen = on_a_terminal(start, "tables", "problems", columns=columns, NO_COLOR="1")
        return max(map(len, seen.splitlines()))

    assert widest(60) <= 60 < widest(200) <= 200


def test_a_terminal_gets_colour_only_if_it_can_and_may(start: Start) -> None:
    arguments = ("show", "a.dump", "crew", "--limit", "1")
    assert "\x1b[1m" in on_a_terminal(start, *arguments)[1]
    assert "\x1b" not in on_a_terminal(start, *arguments, NO_COLOR="1")[1]
    assert "\x1b" not in on_a_terminal(start, *arguments, TERM="dumb")[1]


def test_a_pipe_gets_every_column_and_no_colour(start: Start) -> None:
    out, _ = start("show", "a.dump", "ships", "--limit", "3").communicate()
    for name in ("number", "name", "arrived", "afloat", "draught", "berth", "cargo"):
        assert name in out.decode()
    assert b"\x1b" not in out
    assert b"0xffff888003a54000" in out
    assert b"2024-02-29T23:59:59.000005Z" in out


def test_json_on_a_terminal_holds_no_control_characters(start: Start) -> None:
    _, seen = on_a_terminal(start, "show", "a.dump", "ships", "--format", "json")
    assert all(c == "\n" or unicodedata.category(c)[0] != "C" for c in seen)
    assert json.loads(seen)[0]["name"].startswith("\x1b[31mred")


def test_another_locale_does_not_stop_a_table(start: Start) -> None:
    out, err = start("show", "a.dump", "ships", environment={"PYTHONIOENCODING": "ascii"}).communicate()
    assert err == b""
    assert b"\\u65e5\\u672c\\u4e38" in out
    out, _ = start(
        "show", "a.dump", "ships", "--format", "csv", environment={"PYTHONIOENCODING": "ascii"}
    ).communicate()
    assert "日本丸" in out.decode()


def test_tables_lists_third_party_tables_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from memdump import tables

    monkeypatch.setattr(tables, "names", lambda: ["ships", "crew"])
    assert json.loads(run("tables", "--format", "json").out) == [
        {"table": "ships", "description": "A ship in the harbour."},
        {"table": "crew", "description": "Somebody on a ship."},
    ]
    assert {"missing", "ships"} <= set(tables._third_party())
    rows = list(csv.reader(io.StringIO(run("tables", "ships", "--format", "csv").out)))
    assert rows[1:4] == [
        ["number", "int", "Its number"],
        ["name", "str or nothing", "What it is called"],
        ["arrived", "time or nothing", "When it came"],
    ]
    assert ["berth", "address", "Where it lies"] not in rows
    assert ["berth", "address or nothing", "Where it lies"] in rows


def test_python_asks_the_same(harbour: Any) -> None:
    import memdump

    with memdump.open("a.dump") as dump:
        assert [ship.number for ship in dump.table("ships")] == [1, 2, 3]
        answer = dump.query("select number, arrived from ships order by number")
        assert [column.name for column in answer.columns] == ["number", "arrived"]
        assert next(iter(answer)) == (1, datetime(2024, 2, 29, 23, 59, 59, 5, tzinfo=UTC))
