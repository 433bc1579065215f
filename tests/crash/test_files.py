"""What the process knew of its files is told, and only where it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from memdump.crash import program
from memdump.crash.core import WRITE, Region
from memdump.crash.explanation import explain
from memdump.crash.files import Stream, _paths

if TYPE_CHECKING:
    from memdump.crash.files import Files
    from memdump.crash.program import CrashProgram
    from tests.crash.conftest import Crashed, Explained


@pytest.fixture(params=[True, False], ids=["debug", "stripped"])
def files(request: pytest.FixtureRequest, crashed: Crashed) -> Files:
    found = explain(crashed("open_files", debug=request.param).core, with_files=True).files
    assert found is not None
    return found


def test_streams_with_their_descriptors_and_what_is_not_written_yet(files: Files) -> None:
    """The program opened descriptor 3 to read, 4 to read and write, and left seven bytes in a buffer."""
    streams = {stream.descriptor: stream for stream in files.streams}
    assert streams.keys() == {0, 1, 2, 3, 4}
    assert streams[3] == Stream(3, "read", 0)
    assert streams[4] == Stream(4, "read and write", len("seven b"))


def test_files_that_were_mapped_and_paths_in_memory(files: Files) -> None:
    assert "/usr/bin/env" in files.mapped
    assert not any(path.endswith("libc.so.6") for path in files.mapped)
    assert "/var/lib/shop/orders.db" in files.paths


@pytest.mark.parametrize("before", range(40, 68))
def test_a_path_is_whole_wherever_it_is(monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    """Memory is read in pieces, here of 64 bytes, and one may end in the middle of a path."""
    monkeypatch.setattr(program, "STEP", 64)
    memory = b"/at/start".ljust(before, b"\0") + b"/usr/lib/there\0" + bytes(100)
    region = Region(0x1000, 0x2000, WRITE, 0, len(memory))

    class Opened:
        core = SimpleNamespace(regions=[region])

        def read(self, address: int, size: int) -> bytes:
            return memory[address - region.start :][:size]

    assert _paths(cast("CrashProgram", Opened())) == {"/at/start", "/usr/lib/there"}


def test_they_are_shown_on_request_only(crashed: Crashed, explained: Explained) -> None:
    assert explained("open_files").files is None
    core = str(crashed("open_files").core)
    command = [sys.executable, "-m", "memdump", "explain", core]
    quiet = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    asked = subprocess.run([*command, "--files"], capture_output=True, text=True, check=True).stdout
    assert "\nFILES" not in quiet
    assert "  descriptor 4  a stream, to read and write, 7 bytes of it not written yet\n" in asked
    assert "  /usr/bin/env  mapped\n" in asked
    assert "  /var/lib/shop/orders.db  a text in memory\n" in asked
    told = subprocess.run([*command, "--files", "--format", "json"], capture_output=True, check=True).stdout
    assert {"descriptor": 4, "mode": "read and write", "unwritten": 7} in json.loads(told)["files"]["streams"]
