from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.errors import NotADump, NotPermitted
from memdump.machine import host, manifest, record
from memdump.machine.host import Host, Instant
from memdump.machine.manifest import (
    Manifest,
    Operator,
    Part,
    Refused,
    Skipped,
    Staged,
    Stream,
    Timings,
    Written,
)
from memdump.machine.source import Range

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = Manifest(
    memdump="0.1.0",
    command=("memdump", "acquire", "/mnt/usb"),
    host=Host("web1", "6.1.0-50-amd64", "#1 SMP", "x86_64", None, 4096, "ro quiet"),
    started=Instant("2026-01-31T23:59:59.000001Z", 123_000),
    ended=Instant("2026-02-01T00:00:09.000001Z", 10_000_123_000),
    source="kcore",
    ranges=(Range(0x1000, 0x9E000), Range(1 << 40, 1 << 41)),
    stream=Stream("lime", 64, "e3" * 32),
    complete=False,
    stopped_by="stopped by SIGTERM",
    timings=Timings(10.0, 4.5, 3.0, 2.25, 1.5, 0.75, 0.5),
    vmcoreinfo="OSRELEASE=6.1.0\n",
    written=Written(
        name="web1.lime.zst.age",
        size=50,
        sha256="b0" * 32,
        layers=("zstd", "age"),
        parts=(Part("web1.lime.zst.age.000", 30, "0a" * 32), Part("web1.lime.zst.age.001", 20, "0b" * 32)),
    ),
    acquired_by=Operator(
        "analyst",
        "ada",
        Instant("2026-01-31T23:59:58.500000Z", 77),
        Instant("2026-02-01T00:00:10.000000Z", 99),
    ),
    evidence="the direct map is at page_offset_base, which kallsyms names",
    refused=(Refused("ebpf", "bpf is locked down"),),
    order="kernel-first",
    staged=Staged(12 << 20, 4096),
    skipped=(Skipped("free", (Range(0x5000, 0x2000), Range(1 << 40, 0x1000))),),
    unreadable=(Range(0x2000, 0x1000),),
    not_taken=(Range((1 << 40) + 0x2000, (1 << 41) - 0x2000),),
    pauses=(0.25, 0.5),
    added=(Range(1 << 42, 1 << 30),),
    removed=(Range(1 << 40, 1 << 20),),
)
VERSION_1 = json.loads(
    """{
  "format": "memdump manifest", "version": 1, "memdump": "0.1.0",
  "command": ["memdump", "acquire", "/mnt/usb"], "file": "web1.lime", "image_format": "lime",
  "host": {"hostname": "web1", "kernel_release": "6.1.0-50-amd64", "kernel_version": "#1 SMP",
    "machine": "x86_64", "boot_id": null, "page_size": 4096, "command_line": "ro quiet"},
  "started": {"utc": "2026-01-31T23:59:59.000001Z", "boot_time_ns": 123000},
  "ended": {"utc": "2026-02-01T00:00:09.000001Z", "boot_time_ns": 10000123000},
  "source": "kcore",
  "ranges": [{"start": "0x1000", "size": 647168}, {"start": "0x10000000000", "size": 2199023255552}],
  "unreadable": [{"start": "0x2000", "size": 4096}],
  "size": 64, "sha256": "SHA", "complete": false, "stopped_by": "stopped by SIGTERM",
  "timings": {"total": 10.0, "reading": 4.5, "hashing": 3.0, "writing": 2.25},
  "vmcoreinfo": "OSRELEASE=6.1.0\\n"
}""".replace("SHA", "e3" * 32)
)
"""What the first release wrote."""


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "web1.lime.json"
    path.write_text(SAMPLE.to_json())
    assert manifest.load(path) == SAMPLE


def test_what_may_be_left_out_is_loaded_too(tmp_path: Path) -> None:
    least = {key: value for key, value in SAMPLE._asdict().items() if key not in Manifest._field_defaults}
    assert manifest.parse(Manifest(**least).to_json().encode()) == Manifest(**least)


def test_what_was_written_before_memory_could_come_and_go_is_loaded() -> None:
    document = json.loads(SAMPLE.to_json())
    del document["added"], document["removed"]
    assert manifest.parse(json.dumps(document).encode()) == SAMPLE._replace(added=(), removed=())


@pytest.mark.parametrize(
    ("before", "failure", "told"),
    [
        (None, None, None),
        (None, "the disk failed", "the disk failed"),
        ("SIGINT", None, "SIGINT"),
        ("SIGINT", "the disk failed", "SIGINT; the disk failed"),
        ("the disk failed", "the disk failed", "the disk failed"),
    ],
)
def test_what_fails_in_the_end_is_told_beside_what_stopped_it(
    before: str | None, failure: str | None, told: str | None
) -> None:
    found = SAMPLE._replace(complete=before is None, stopped_by=before, written=None)
    found = record.closed(found, SAMPLE.written, failure)
    assert (found.complete, found.stopped_by, found.written) == (told is None, told, SAMPLE.written)


def test_addresses_are_hex_and_sizes_are_numbers() -> None:
    document = json.loads(SAMPLE.to_json())
    assert document["ranges"][1] == ["0x10000000000", 2199023255552]
    assert document["format"] == "memdump manifest"
    assert document["version"] == 2


def test_a_range_is_a_line() -> None:
    many = tuple(Range(start << 13, 4096) for start in range(100_000))
    text = SAMPLE._replace(skipped=(Skipped("free", many),)).to_json()
    lines = [line for line in text.splitlines() if "4096]" in line]
    assert len(lines) == 100_001
    assert len(text) < 4_000_000
    assert manifest.parse(text.encode()).skipped[0].ranges == many


def test_no_text_is_taken_for_a_range() -> None:
    text = '[\n "0x1000",\n 4096\n]'
    found = SAMPLE._replace(command=(text, "0x1000", "4096"))
    assert manifest.parse(found.to_json().encode()) == found


def all_keys(value: object) -> set[str]:
    inner: list[object] = []
    keys: set[str] = set()
    if isinstance(value, dict):
        keys = set(value)
        inner = list(value.values())
    elif isinstance(value, list):
        inner = value
    return keys.union(*map(all_keys, inner))


def test_the_document_describes_every_key() -> None:
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs/manifest.md").read_text()
    assert not [key for key in all_keys(json.loads(SAMPLE.to_json())) if f"`{key}`" not in text]


def test_the_first_version_is_still_read() -> None:
    found = manifest.parse(json.dumps(VERSION_1).encode())
    assert found.stream == Stream("lime", 64, "e3" * 32)
    assert found.written == Written("web1.lime", 64, "e3" * 32)
    assert (found.order, found.skipped, found.not_taken, found.pauses) == ("ascending", (), (), ())
    assert (found.timings.total, found.timings.compressing) == (10.0, 0.0)
    for key in ("host", "started", "ended", "ranges", "unreadable", "vmcoreinfo", "command", "stopped_by"):
        assert getattr(found, key) == getattr(SAMPLE, key)


def test_the_offsets_of_the_clocks_show_a_step() -> None:
    """Against GNU date: 2026-01-31T23:59:59Z is so many seconds after the epoch."""
    assert SAMPLE.clock_offsets_ns == (1769903999_000001000 - 123_000, 1769903999_000001000 - 123_000)
    assert json.loads(SAMPLE.to_json())["clock_offsets_ns"] == [1769903998_999878000] * 2
    stepped = SAMPLE._replace(ended=Instant("2026-02-01T01:00:09.000001Z", SAMPLE.ended.boot_time_ns))
    assert stepped.clock_offsets_ns[1] - stepped.clock_offsets_ns[0] == 3600 * 10**9


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("web1.lime", "web1.lime"),
        ("--source", "--source"),
        ("tcp:analyst:4444", "tcp:analyst:4444"),
        ("ssh:root@web1", "ssh:root@web1"),
        ("ssh://root@web1:22/", "ssh://root@web1:22/"),
        ("ssh://root:hunter2@web1", "ssh://root:[removed]@web1"),
        ("s3://bucket/web1.lime", "s3://bucket/web1.lime"),
        ("https://h/a?X-Amz-Signature=hunter2", "https://h/a?[removed]"),
        ("--to=https://h/a?sig=hunter2&se=1#b", "--to=https://h/a?[removed]"),
        ("https://h/a#hunter2?x", "https://h/a#[removed]"),
        ("https://ada:hunter2@h/a/b@c", "https://[removed]@h/a/b@c"),
        ("https://ada:hun?ter2@h/a", "https://[removed]@h/a"),
        ("https://hunter2@h", "https://[removed]@h"),
        ("https://h?a@hunter2", "https://[removed]@hunter2"),
        ("https://h/a?b\nhunter2", "https://h/a?[removed]"),
        ("caf\udce9", "caf\\xe9"),
    ],
)
def test_a_command_line_is_kept_without_its_secrets(given: str, kept: str) -> None:
    assert manifest.command([given]) == [kept]


@pytest.mark.parametrize("image", ["a/web1.lime", "a/web1.lime.part"])
def test_a_manifest_is_found_from_its_image_finished_or_not(image: str) -> None:
    assert manifest.path_of(image) == "a/web1.lime.json"


def changed(key: str, value: Any, base: str | None = None) -> bytes:
    document = json.loads(base or SAMPLE.to_json())
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
        (changed("version", 3), "version 3"),
        (changed("version", True), "version True"),
        (changed("version", "\x1b[31m" * 50), "version"),
        (changed("stream.sha256", ...), "stream.sha256 is missing"),
        (changed("stream.sha256", "E3" * 32), "stream.sha256"),
        (changed("written.sha256", "e3" * 32 + "\n"), "written.sha256"),
        (changed("written.parts", [1]), r"written.parts\[0\]"),
        (changed("written.parts", [{"name": 1}]), r"written.parts\[0\].name"),
        (changed("started.utc", "2026-01-31 23:59:59"), "started.utc"),
        (changed("acquired_by.ended.boot_time_ns", -1), "acquired_by.ended.boot_time_ns"),
        (changed("pauses", [1, -1]), "pauses"),
        (changed("host.hostname", 7), "host.hostname"),
        (changed("host.hostname", "\ud800"), "host.hostname"),
        (changed("complete", 1), "complete"),
        (changed("stream.size", True), "size"),
        (changed("stream.size", -1), "size"),
        (changed("command", ["a", 1]), "command"),
        (changed("timings.total", float("nan")), "timings.total"),
        (changed("timings.total", 1e300), "timings.total"),
        (changed("ranges", {}), "ranges"),
        (changed("ranges", [1]), r"ranges\[0\]"),
        (changed("ranges", [["x", 1]]), r"ranges\[0\]"),
        (changed("ranges", [["0x1", 0]]), r"ranges\[0\]"),
        (changed("ranges", [["0x1", True]]), r"ranges\[0\]"),
        (changed("ranges", [["-0x1", 1]]), r"ranges\[0\]"),
        (changed("ranges", [["0x1", 1, 1]]), r"ranges\[0\]"),
        (changed("ranges", [["0x" + "f" * 16, 2]]), r"ranges\[0\]"),
        (changed("ranges", [["0x1", 2], ["0x2", 2]]), r"ranges\[1\]"),
        (changed("skipped", [{"reason": "free", "ranges": [1]}]), r"skipped\[0\].ranges\[0\]"),
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
DERIVED = ("format", "version", "clock_offsets_ns")
paths = [key for key in json.loads(SAMPLE.to_json()) if key not in DERIVED] + [
    *("host.machine", "host.page_size", "started.utc", "ended.boot_time_ns", "timings.reading"),
    *("stream.format", "stream.sha256", "written.name", "written.layers", "written.parts"),
    *("acquired_by.user", "acquired_by.started", "staged.size", "staged.no_room"),
]
of_version_1 = [key for key in VERSION_1 if key not in DERIVED]


@given(st.sampled_from(paths), json_values)
def test_any_value_anywhere_is_taken_or_refused_clearly(key: str, value: Any) -> None:
    try:
        found = manifest.parse(changed(key, value))
    except NotADump as error:
        assert key in str(error)
        assert "\n" not in str(error)
    else:
        assert manifest.parse(found.to_json().encode()) == found


@given(st.sampled_from(of_version_1), json_values)
def test_any_value_in_the_first_version_is_taken_or_refused_clearly(key: str, value: Any) -> None:
    try:
        found = manifest.parse(changed(key, value, json.dumps(VERSION_1)))
    except NotADump as error:
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
    assert manifest.parse(SAMPLE._replace(source=text).to_json().encode()).source == text
