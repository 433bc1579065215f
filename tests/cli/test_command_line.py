"""The command line as a whole: help, statuses, and never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from memdump import __version__, cli

Run = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[bytes]"]


def test_help_lists_every_command_with_its_summary(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    for name in cli.COMMANDS:
        assert any(line.split()[:1] == [name] and len(line.split()) > 2 for line in out.splitlines())


def test_no_arguments_is_wrong_usage_and_shows_the_help(run: Run) -> None:
    status, out, err = run()
    assert (status, out) == (2, "")
    assert "commands:" in err


def test_version(run: Run) -> None:
    assert run("--version")[:2] == (0, f"memdump {__version__}\n")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_a_command_has_an_example_of_it(run: Run, name: str) -> None:
    status, out, _ = run(name, "--help")
    assert status == 0
    example = out.partition("example:\n")[2]
    assert f"memdump {name}" in example


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_is_ascii_so_that_any_terminal_shows_it(run: Run, name: str) -> None:
    status, out, _ = run(name, "--help")
    assert status == 0
    assert out.isascii()


def test_only_the_chosen_command_is_imported() -> None:
    code = (
        "import sys\nfrom memdump.cli import main\ntry: main(['show', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith('memdump.cli.') and '._' not in m], file=sys.stderr)\n"
        "print([m for m in ('duckdb', 'numpy', 'rich', 'json') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "['memdump.cli.show']\n[]\n"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["shwo"], 2, "did you mean 'show'?"),
        (["--nonsense"], 2, "unrecognized"),
        (["show", "a.dump"], 2, "TABLE"),
        (["show", "a.dump", "shpis"], 2, "did you mean 'ships'?"),
        (["show", "a.dump", "ships", "--columns", "number,nmae"], 2, "no column 'nmae'; it has number, name"),
        (["show", "a.dump", "ships", "--columns", ","], 2, "no column"),
        (["show", "a.dump", "ships", "--limit", "-1"], 2, "negative"),
        (["show", "a.dump", "ships", "--limit", "many"], 2, "invalid int"),
        (["show", "a.dump", "ships", "--form", "json"], 2, "unrecognized"),
        (["show", "a.dump", "ships", "--where", "nonsense > 1"], 2, '"nonsense" not found'),
        (["show", "a.dump", "ships", "--where", "1 = 1) --"], 2, "syntax error"),
        (["show", "a.txt", "ships"], 3, "is no dump"),
        (["query", "a.dump", "selec 1"], 2, "syntax error"),
        (["query", "a.dump", "select * from shpis"], 2, "did you mean 'ships'?"),
        (["query", "a.dump", ""], 2, "must be a SELECT"),
        (["tables", "shpis"], 2, "did you mean 'ships'?"),
        (["show", "a.dump", "missing"], 2, "cannot be loaded from 'harbour:nowhere' of harbour"),
        (["show", "a.dump", "absent"], 2, "No module named 'harbour_absent'"),
        (["show", "a.dump", "untabled"], 2, "is no table"),
        (["show", "a.dump", "interrupted"], 130, "interrupted"),
        (["show", "a.dump", "faulty"], 70, "please report it"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_status(
    run: Run, arguments: list[str], status: int, said: str
) -> None:
    result = run(*arguments)
    assert result.status == status
    assert said in result.err
    lines = [line for line in result.err.splitlines() if line.startswith("memdump")]
    assert len(lines) == 1
    assert "Traceback" not in result.err


def test_a_fault_shows_its_traceback_only_on_request(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMDUMP_DEBUG", "1")
    assert "Traceback" in run("show", "a.dump", "faulty").err


def test_messages_hold_no_control_characters(run: Run) -> None:
    err = run("show", "\x1b[31m\u202e\udcff.txt", "ships").err
    assert err == "memdump: \\x1b[31m\\u202e\\xff.txt: is no dump\n"


def test_what_could_not_be_read_is_said_and_gives_status_1(run: Run) -> None:
    status, out, err = run("show", "a.dump", "wrecks")
    assert (status, out.split()) == (1, ["name", "first"])
    assert "2 things could not be read" in err
    assert "memdump show a.dump problems" in err


def test_a_reader_that_goes_away_is_no_error_message(start: Start) -> None:
    process = start("show", "a.dump", "endless", "--format", "jsonl")
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.parametrize("arguments", [("--help",), ("show", "--help"), ("show", "a.dump", "ships")])
def test_a_reader_that_was_never_there_is_no_error_message_either(
    start: Start, arguments: tuple[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start(*arguments, stdout=writing)
    os.close(writing)
    assert process.communicate()[1] == b""
    assert process.returncode == 141


@pytest.mark.parametrize("table", ["ships", "crew"])
def test_a_full_disk_is_one_line(start: Start, table: str) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        process = start("show", "a.dump", table, stdout=full.fileno())
        _, err = process.communicate()
    assert process.returncode == 1
    assert err == b"memdump: No space left on device\n"


def test_interruption_is_one_line(start: Start) -> None:
    process = start("show", "a.dump", "endless", "--format", "jsonl")
    assert process.stdout
    process.stdout.readline()
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, b"memdump: interrupted\n")


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "memdump", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"memdump {__version__}\n"
