"""Programs that are not here come from the servers that the user's environment names, and from no others."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.crash import cores

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def own(tmp_path: Path) -> cores.Crash:
    program = cores.compiled(tmp_path, "crash", debug=True)
    return cores.crash(program, "null_field", tmp_path / "crashed")


class Server(http.server.BaseHTTPRequestHandler):
    """Serves one file by its build id, as debuginfod does (``debuginfod(8)``)."""

    file: bytes
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if re.fullmatch(r"/buildid/[0-9a-f]{40}/(executable|debuginfo)", self.path):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.file)))
            self.end_headers()
            self.wfile.write(self.file)
        else:
            self.send_error(404)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def served(own: cores.Crash) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that has the program, which is gone from its place; and what it was asked."""
    asked: list[str] = []
    handler = type("Handler", (Server,), {"file": own.program.read_bytes(), "asked": asked})
    own.program.unlink()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def explained(core: Path, cache: Path, urls: str) -> dict[str, Any]:
    environment = {**os.environ, "DEBUGINFOD_CACHE_PATH": str(cache), "DEBUGINFOD_URLS": urls}
    command = [sys.executable, "-m", "memdump", "explain", str(core), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_program_from_a_server(own: cores.Crash, served: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = served
    top = explained(own.core, tmp_path / "cache", url)["stack"][0]
    if not asked:
        pytest.skip("drgn finds no libdebuginfod: apt install libdebuginfod1")
    assert (top["function"], Path(top["file"]).name) == ("read_null_field", "crash.c")
    build_id = explained(own.core, tmp_path / "cache", url)["modules"][0]["build_id"]
    assert f"/buildid/{build_id}/debuginfo" in asked


def test_no_server_is_asked_where_none_is_named(
    own: cores.Crash, served: tuple[str, list[str]], tmp_path: Path
) -> None:
    _, asked = served
    assert explained(own.core, tmp_path / "cache", "")["stack"][0]["function"] == ""
    assert asked == []
