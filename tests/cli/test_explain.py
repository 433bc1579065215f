"""``memdump explain`` as it is typed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash import cores


@pytest.fixture(scope="module")
def crash(tmp_path_factory: pytest.TempPathFactory) -> cores.Crash:
    folder = tmp_path_factory.mktemp("explain")
    return cores.crash(cores.compiled(folder, "crash", debug=True), "threads", folder / "crashed")


def memdump(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "memdump", "explain", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_the_answer_comes_first(crash: cores.Crash) -> None:
    done = memdump(crash.core)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"CRASH       {crash.core}"
    assert lines[1].startswith(f"  program   {crash.program}"[:12])
    assert lines[2].startswith("  signal    SIGSEGV, a bad memory access; SEGV_MAPERR")
    assert lines[3].startswith("  why       a read of 8 bytes through a NULL pointer, at offset 24")
    assert lines[4] == "            by the types of the variables it is node->next"
    assert "    0  read_null_field (node=NULL, depth=7) at " in done.stdout
    assert "5 threads alike: " in done.stdout
    assert "\n  => 0x" in done.stdout
    assert "\n  rip " in done.stdout
    for title in ("STACK", "THREADS", "CODE", "REGISTERS", "MODULES"):
        assert f"\n{title}" in done.stdout
    assert "ENVIRONMENT" not in done.stdout


def test_json_is_one_object_with_exact_addresses(crash: cores.Crash) -> None:
    done = memdump(crash.core, "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["signal"]["name"] == "SIGSEGV"
    assert found["signal"]["code_name"] == "SEGV_MAPERR"
    assert found["verdict"]["kind"] == "null_pointer"
    assert found["verdict"]["address"] == 24
    assert found["stack"][0]["function"] == "read_null_field"
    assert found["stack"][0]["arguments"][1] == {"name": "depth", "type": "int", "value": "7"}
    assert [len(group["threads"]) for group in found["others"]] == [5]
    assert len(found["modules"][0]["build_id"]) == 40
    assert {one["name"]: one["value"] for one in found["registers"]}["rip"] == found["stack"][0]["pc"]
    assert found["started"] is None


def test_the_environment_only_on_request(tmp_path: Path, crash: cores.Crash) -> None:
    os.environ["MEMDUMP_TEST_SECRET"] = "hidden \x1b[31m"
    try:
        other = cores.crash(crash.program, "plain_abort", tmp_path)
    finally:
        del os.environ["MEMDUMP_TEST_SECRET"]
    plain = memdump(other.core)
    assert "hidden" not in plain.stdout
    done = memdump(other.core, "--environment")
    assert "\n  MEMDUMP_TEST_SECRET=hidden \\x1b[31m\n" in done.stdout
    assert f"ARGUMENTS   \n  {crash.program}\n  plain_abort\n".replace("   \n", "\n") in done.stdout
    found = json.loads(memdump(other.core, "--environment", "--format", "json").stdout)
    assert found["started"]["arguments"] == [str(crash.program), "plain_abort"]
    assert "MEMDUMP_TEST_SECRET=hidden \x1b[31m" in found["started"]["environment"]


def test_lines_are_broken_to_the_width_of_the_terminal(crash: cores.Crash) -> None:
    done = memdump(crash.core, COLUMNS="72")
    assert done.returncode == 0
    answer = done.stdout.partition("STACK")[0]
    assert max(map(len, answer.splitlines())) <= 72
    assert "field or element; register rax is 0" in " ".join(answer.split())


def test_what_is_missing_is_said_and_is_the_status(tmp_path: Path, crash: cores.Crash) -> None:
    program = Path(shutil.copy(crash.program, tmp_path / "gone"))
    other = cores.crash(program, "null_field", tmp_path / "crashed")
    program.unlink()
    done = memdump(other.core)
    assert done.returncode == 1
    assert f"memdump: no file of {program}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "data", "status", "says"),
    [
        ("text", b"no core, but a text " * 100, 3, "is a text file"),
        ("empty", b"", 3, "is empty"),
        ("short", b"\x7fELF\x02\x01\x01", 3, "truncated|damaged"),
    ],
)
def test_bad_input_is_one_line_and_status_3(
    name: str, data: bytes, status: int, says: str, tmp_path: Path
) -> None:
    import re

    path = tmp_path / name
    path.write_bytes(data)
    done = memdump(path)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert re.search(says, done.stderr)


def test_a_root_that_is_no_folder(crash: cores.Crash) -> None:
    done = memdump(crash.core, "--root", crash.program)
    assert done.returncode == 2
    assert "is no folder" in done.stderr
