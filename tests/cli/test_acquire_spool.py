"""Images whose length nobody knows beforehand, for servers that take nothing without one."""

from __future__ import annotations

import hashlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.test_acquire import SLOW, machine, names, run, start, wait_for
from tests.machine.test_acquire import joined
from tests.machine.test_http_put import SECRET, XML, Handler, server

if TYPE_CHECKING:
    import contextlib
    from pathlib import Path

    from tests.machine.fake_kcore import Machine

__all__ = ["machine"]


class Store(Handler):
    """Refuses what comes in chunks, in the way of S3."""

    def handle_expect_100(self) -> bool:
        if "Content-Length" not in self.headers:
            type(self).answer = (501, {}, b"<Error><Code>NotImplemented</Code></Error>")
            self._reply()
            return False
        return super().handle_expect_100()


def store(**settings: Any) -> contextlib.AbstractContextManager[tuple[str, type[Handler]]]:
    return server(kind=Store, **settings)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


def test_the_server_refuses_what_has_no_length_and_the_way_out_is_told(machine: Machine) -> None:
    with store() as (url, there):
        status, out, err = run(machine, f"{url}.zst?{SECRET}", "--no-encrypt")
        assert (status, out, there.arrived) == (1, b"", {})
    assert "wants to know the length beforehand (501 NotImplemented)" in err.splitlines()[-1]
    assert "--spool FOLDER" in err.splitlines()[-1]


def test_a_compressed_image_goes_there_by_way_of_a_folder(machine: Machine, spool: Path) -> None:
    with store() as (url, there):
        status, out, err = run(machine, f"{url}.zst?{SECRET}", "--no-encrypt", "--spool", spool)
        assert (status, out.decode()) == (0, f"{url}.zst\n"), err
        ((path, arrived),) = there.arrived.items()
        assert path == f"/case/7/web1.lime.zst?{SECRET}"
        assert there.headers_seen[-1]["Content-Length"] == str(len(arrived))
    unpacked = subprocess.run(["zstd", "-dq"], input=arrived, capture_output=True, check=True).stdout
    assert joined(unpacked) == machine.memory
    assert names(spool) == ["web1.lime.zst.custody.jsonl", "web1.lime.zst.json"]
    told = json.loads((spool / "web1.lime.zst.json").read_text())
    assert told["complete"]
    assert told["written"]["sha256"] == hashlib.sha256(arrived).hexdigest()
    assert SECRET not in "".join(path.read_text() for path in spool.iterdir()) + err


def test_what_is_refused_is_refused_before_memory_is_taken(machine: Machine, spool: Path) -> None:
    with server(answer=(403, {}, XML), refuse_early=True) as (url, _):
        status, out, err = run(machine, f"{url}.zst", "--no-encrypt", "--spool", spool)
    assert (status, out, names(spool)) == (1, b"", [])
    assert "does not permit it (403 ExpiredToken)" in err.splitlines()[-1]


@pytest.mark.parametrize("taken", ["web1.lime.zst", "web1.lime.zst.part", "web1.lime.zst.json"])
@pytest.mark.parametrize("dry", [(), ("--dry-run", "--source", "kcore")])
def test_what_is_in_the_way_in_the_folder_is_told(
    machine: Machine, spool: Path, taken: str, dry: tuple[str, ...]
) -> None:
    (spool / taken).write_text("precious")
    with store() as (url, there):
        status, _, err = run(machine, f"{url}.zst?{SECRET}", "--no-encrypt", "--spool", spool, *dry)
        assert (status, names(spool), there.arrived) == (2, [taken], {}), err
    assert f"{taken}: exists already" in err.splitlines()[-1]


def test_an_image_that_does_not_arrive_stays_whole_in_the_folder(machine: Machine, spool: Path) -> None:
    with store(answer=(500, {}, b"")) as (url, _):
        status, out, err = run(machine, f"{url}.zst", "--no-encrypt", "--spool", spool)
    assert (status, out) == (1, b"")
    image = spool / "web1.lime.zst"
    assert (
        f"500 Internal Server Error; nothing is kept at {url}.zst; the image stands whole in {image}" in err
    )
    assert f"'curl -T {image} ADDRESS'" in err
    told = json.loads((spool / "web1.lime.zst.json").read_text())
    assert told["complete"]
    assert told["written"]["sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()


def test_a_run_that_is_stopped_stays_a_part_in_the_folder(machine: Machine, spool: Path) -> None:
    with store() as (url, there):
        process = start(machine, f"{url}.zst", "--no-encrypt", "--spool", spool, pause=SLOW)
        wait_for(spool / "web1.lime.zst.part", 100)
        process.terminate()
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, there.arrived) == (1, b"", {})
    part = spool / "web1.lime.zst.part"
    assert f"stopped by SIGTERM; what was written stands in {part}" in err.decode().splitlines()[-1]
    assert part.is_file()


@pytest.mark.parametrize("name", ["..", ".hidden", "%2E%2E%2Fout", "a%00b", "%0Ax"])
def test_a_name_that_is_none_for_a_file_is_replaced(machine: Machine, spool: Path, name: str) -> None:
    with store() as (url, there):
        address = f"{url.rpartition('/')[0]}/{name}"
        status, _, err = run(machine, address, "--compress", "--no-encrypt", "--spool", spool)
        assert status == 0, err
        assert list(there.arrived) == [f"/case/7/{name}"]
    assert len(names(spool)) == 2
    assert all(".lime.zst." in path.name for path in spool.iterdir())
    assert names(spool.parent) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a.lime", "--spool", "."), "--spool is for http: and https: only"),
        (("tcp:127.0.0.1:9", "--spool", "."), "--spool is for http: and https: only"),
        (("http://127.0.0.1:9/x", "--spool", "none"), "none: No such file or directory; name a folder"),
        (("http://127.0.0.1:9/x", "--split", "1M"), "--split is for files"),
        (("-", "--split", "1M"), "--split is for files"),
        (("a.lime", "--tls"), "--tls is for tcp: only"),
        (("http://127.0.0.1:9/x", "--tls-ca", "x"), "--tls-ca is for tcp: and https: only"),
    ],
)
def test_what_would_be_passed_over_is_refused(
    machine: Machine, spool: Path, arguments: tuple[str, ...], said: str
) -> None:
    status, out, err = run(machine, *arguments, "--no-encrypt", cwd=spool)
    assert (status, out, names(spool)) == (2, b"", [])
    assert said in err.splitlines()[-1]
