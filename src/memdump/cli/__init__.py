"""How memdump is asked: one file per command, with nothing but its arguments and one call.

A command module has ``SUMMARY`` (one line), ``EXAMPLE`` (a command line), ``add_arguments(parser)`` and
``run(args) -> int`` (the exit status).  Only the chosen command's module is imported, which keeps the start
quick.  Modules whose name begins with an underscore are shared by commands.

Exit status: 0 done; 1 done, but part of the memory or of the answer is missing; 2 wrong usage; 3 the input
cannot be read as a dump; 4 not permitted here; 70 a fault of memdump itself; 130 interrupted; 141 the reader
of the output went away.

This module also starts the acquisition side, so it keeps to the standard library and to Python 3.8.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from memdump import __version__
from memdump.cli import _exposed
from memdump.errors import MemdumpError, NotPermitted, UsageError
from memdump.report.text import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (
    "acquire",
    "receive",
    "process",
    "convert",
    "info",
    "verify",
    "tables",
    "show",
    "query",
    "triage",
    "explain",
    "shell",
    "export",
)
"""The commands in the order of the help; each is the module of that name."""

DESCRIPTION = "Take the memory of a running UNIX system and say what was going on in it."
FAULT = 70
INTERRUPTED = 130
READER_GONE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status; whatever goes wrong is one line on stderr."""
    _open_standard()
    try:
        try:
            status = _run(list(sys.argv[1:] if arguments is None else arguments))
        except SystemExit as end:  # of argparse: help, version, wrong usage
            status = int(end.code or 0)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except MemdumpError as error:
        return _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _discard_output()
        return READER_GONE
    except OSError as error:
        _discard_output()
        return _fail(_describe(error), NotPermitted.exit_status if isinstance(error, PermissionError) else 1)
    except Exception as error:
        return _fault(error)


def _open_standard() -> None:
    """Open what we were started without, so that no file of ours takes the place of a standard one.

    What is written to an output that was closed fails; nothing is lost with messages that nobody wants.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        return _run_without_command(arguments)
    name, *rest = arguments
    if name not in COMMANDS:
        raise UsageError(f"there is no command {name!r}{_suggestion(name)}; 'memdump --help' lists them")
    if not _is_here(name):
        raise UsageError(
            f"{name!r} is not in this copy of memdump, which only acquires; use the whole memdump for it, on"
            " another machine"
        )
    if name != "shell":
        # drgn's plugins are commands for its prompt; to load them takes longer than to open an image.
        os.environ.setdefault("DRGN_DISABLE_PLUGINS", "*")
    command = _load(name)
    parser = argparse.ArgumentParser(
        prog=f"memdump {name}",
        description=command.SUMMARY,
        epilog=f"example:\n  {command.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    # Options may stand between what is named, as in 'process PID --mode live OUT'; behind -- there are none.
    parse = parser.parse_args if "--" in rest else parser.parse_intermixed_args
    try:
        status: int = command.run(parse(rest))
    finally:
        _exposed.say()
    return status


def _run_without_command(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="memdump",
        usage="memdump COMMAND ...\n       memdump COMMAND --help",
        description=DESCRIPTION,
        epilog=_overview() if {"-h", "--help"}.intersection(arguments or ["-h"]) else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"memdump {__version__}")
    if arguments:
        parser.parse_args(arguments)
        parser.error("which command? 'memdump --help' lists them")
    parser.print_help(sys.stderr)
    return UsageError.exit_status


def _overview() -> str:
    lines = [f"  {name:<10}{_load(name).SUMMARY}" for name in COMMANDS if _is_here(name)]
    return "\n".join(["commands:", *lines, "", "'memdump COMMAND --help' says more, with an example."])


def _is_here(name: str) -> bool:
    """Whether this copy has the command: one made by machine/bundle.py has those that acquire."""
    return importlib.util.find_spec(f"memdump.cli.{name}") is not None


def _load(name: str) -> Any:
    return importlib.import_module(f"memdump.cli.{name}")


def _suggestion(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def _discard_output() -> None:
    """Let the flush at exit go nowhere: it would fail again, with a message of the interpreter's own."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fault(error: Exception) -> int:
    if os.environ.get("MEMDUMP_DEBUG"):
        import traceback

        traceback.print_exc()
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return _fail(
        f"a fault of memdump itself ({what}); please report it with the output of the same command"
        " under MEMDUMP_DEBUG=1",
        FAULT,
    )


def _fail(message: str, status: int) -> int:
    print(f"memdump: {visible(message)}", file=sys.stderr)
    return status
