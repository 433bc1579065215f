from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.errors import NotADump, NotPermitted
from memdump.machine import host, manifest
from memdump.machine.host import Host, Instant
from memdump.machine.manifest import Manifest, Timings
from memdump.machine.source import Range

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = Manifest(
    memdump="0.1.0",
    command=["memdump", "acquire", "/mnt/usb"],
    file="web1.lime",
    image_format="lime",
    host=Host("web1", "6.1.0-50-amd64", "#1 SMP", "x86_64", None, 4096, "ro quiet"),
    started=Instant("2026-01-31T23:59:59.000001Z", 123),
    ended=Instant("2026-02-01T00:00:09.000001Z", 10_000_000_123),
    source="kcore",
    ranges=[Range(0x1000, 0x9E000), Range(1 << 40, 1 << 41)],
    unreadable=[Range(0x2000, 0x1000)],
    size=64,
    sha256="e3" * 32,
    complete=False,
    stopped_by="stopped by SIGTERM",
    timings=Timings(10.0, 4.5, 3.0, 2.25),
    vmcoreinfo="OSRELEASE=6.1.0\n",
)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "web1.lime.json"
    path.write_text(SAMPLE.to_json())
    assert manifest.load(path) == SAMPLE


def test_addresses_are_hex_and_sizes_are_numbers() -> None:
    document = json.loads(SAMPLE.to_json())
    assert document["ranges"][1] == {"start": "0x10000000000", "size": 2199023255552}
    assert document["format"] == "memdump manifest"
    assert document["version"] == 1


def test_the_document_describes_every_key() -> None:
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs/acquire.md").read_text()
    document = json.loads(SAMPLE.to_json())
    nested = [key for value in document.values() if isinstance(value, dict) for key in value]
    assert not [key for key in [*document, *nested] if f"`{key}`" not in text]


@pytest.mark.parametrize("image", ["a/web1.lime", "a/web1.lime.part"])
def test_a_manifest_is_found_from_its_image_finished_or_not(image: str) -> None:
    assert manifest.path_of(image) == "a/web1.lime.json"


def changed(key: str, value: Any) -> bytes:
    document = json.loads(SAMPLE.to_json())
    *outer, last = key.split(".")
    place = document
    for name in outer:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"format": ' + b"9" * 1000 + b"}", "not valid JSON"),
        (b"[]", "not a manifest of memdump"),
        (b"{}", "not a manifest of memdump"),
        (changed("version", 2), "version 2"),
        (changed("version", "\x1b[31m" * 50), "version"),
        (changed("sha256", ...), "sha256 is missing"),
        (changed("host.hostname", 7), "host.hostname"),
        (changed("host.hostname", "\ud800"), "host.hostname"),
        (changed("complete", 1), "complete"),
        (changed("size", True), "size"),
        (changed("size", -1), "size"),
        (changed("command", ["a", 1]), "command"),
        (changed("timings.total", float("nan")), "timings.total"),
        (changed("timings.total", 1e300), "timings.total"),
        (changed("ranges", {}), "ranges"),
        (changed("ranges", [1]), r"ranges\[0\]"),
        (changed("ranges", [{"start": "x", "size": 1}]), r"ranges\[0\]"),
        (changed("ranges", [{"start": "0x1", "size": 0}]), r"ranges\[0\]"),
        (changed("ranges", [{"start": "-0x1", "size": 1}]), r"ranges\[0\]"),
        (changed("ranges", [{"start": "0x" + "f" * 16, "size": 2}]), r"ranges\[0\]"),
        (changed("ranges", [{"start": "0x1", "size": 2}, {"start": "0x2", "size": 2}]), r"ranges\[1\]"),
    ],
)
def test_a_manifest_that_lies_is_refused_with_what_is_wrong(data: bytes, words: str) -> None:
    with pytest.raises(NotADump, match=words) as caught:
        manifest.parse(data)
    assert str(caught.value).isprintable()


def test_a_file_of_any_size_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "LARGEST", 1000)
    (tmp_path / "big").write_bytes(bytes(2000))
    with pytest.raises(NotADump, match="too large"):
        manifest.load(tmp_path / "big")


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises((NotADump, NotPermitted), match=str(path)):
            manifest.load(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
keys = [key for key in json.loads(SAMPLE.to_json()) if key not in ("format", "version")]
paths = [*keys, "host.machine", "host.page_size", "started.utc", "ended.boot_time_ns", "timings.reading"]


@given(st.sampled_from(paths), json_values)
def test_any_value_anywhere_is_taken_or_refused_clearly(key: str, value: Any) -> None:
    try:
        found = manifest.parse(changed(key, value))
    except NotADump as error:
        assert key in str(error)
        assert "\n" not in str(error)
    else:
        assert manifest.parse(found.to_json().encode()) == found


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused_clearly(data: bytes) -> None:
    with pytest.raises(NotADump):
        manifest.parse(data)


def test_this_host_is_described_as_its_own_tools_do() -> None:
    import subprocess

    def uname(option: str) -> str:
        return subprocess.run(["uname", option], check=True, capture_output=True, text=True).stdout.strip()

    found = host.this_host()
    assert (found.hostname, found.kernel_release) == (uname("-n"), uname("-r"))
    assert (found.kernel_version, found.machine) == (uname("-v"), uname("-m"))


def test_the_clocks_run_forward() -> None:
    first, second = host.now(), host.now()
    assert first.boot_time_ns < second.boot_time_ns
    assert first.utc <= second.utc
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first.utc)


def test_a_name_that_is_not_utf8_can_be_saved() -> None:
    text = host.printable("caf\udce9")
    assert text == "caf\\xe9"
    assert manifest.parse(SAMPLE._replace(file=text).to_json().encode()).file == text
