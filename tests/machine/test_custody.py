"""The record of custody, checked by the words of ``docs/custody.md`` with nothing of memdump."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from memdump.errors import MemdumpError
from memdump.machine import custody
from memdump.machine.custody import ATTRIBUTE, Head, Record, Subject


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "web1.lime"
    path.write_bytes(b"memory")
    return str(path)


def record_of(image: str) -> Path:
    return Path(f"{image}.custody.jsonl")


def filled(image: str) -> list[bytes]:
    """Make a record of four entries and give its lines."""
    custody.append(image, "acquired", sha256="ab" * 32)
    custody.append(image, "opened", "show processes")
    custody.append(image, "exported")
    custody.append(image, "verified")
    return record_of(image).read_bytes().splitlines(keepends=True)


def by_the_document(data: bytes, number: int = 0, sha256: str = "0" * 64) -> Head:
    """Check a record as the document says; gives number and digest of the last line."""
    assert data.endswith(b"\n")
    for line in data.split(b"\n")[:-1]:
        entry = json.loads(line)
        number += 1
        assert entry["number"] == number
        assert entry["previous"] == sha256
        content, digest = re.fullmatch(rb'(.*),"digest":"([0-9a-f]{64})"}', line).groups()  # type: ignore[union-attr]
        assert hashlib.sha256(content).hexdigest() == digest.decode()
        sha256 = hashlib.sha256(line + b"\n").hexdigest()
    return Head(number, sha256)


def faults(image: str) -> list[str]:
    found = custody.check(image)
    assert found is not None
    return list(found.faults)


def test_the_record_is_what_the_document_says(image: str) -> None:
    lines = filled(image)
    head = by_the_document(b"".join(lines))
    assert head.number == 4
    found = custody.check(image)
    assert found is not None
    assert (found.faults, found.head, found.marked) == ([], head, head)
    assert [entry.action for entry in found.entries] == ["acquired", "opened", "exported", "verified"]
    assert stat.S_IMODE(record_of(image).stat().st_mode) == 0o600


def test_other_programs_see_the_same_head(image: str) -> None:
    filled(image)
    last = subprocess.run(["tail", "-n", "1", record_of(image)], capture_output=True, check=True).stdout
    digest = subprocess.run(["sha256sum"], input=last, capture_output=True, check=True).stdout[:64]
    assert os.getxattr(image, "user.memdump.custody") == b"4 " + digest


def test_an_entry_says_who_when_where_and_what(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["memdump", "show", "x", "https://h/?secret", "y" * 5000])
    monkeypatch.setenv("SUDO_USER", "ada")
    before = time.time()
    custody.append(image, "received", "over tcp", sha256="ab" * 32)
    entry = json.loads(record_of(image).read_bytes())
    shown = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    assert (entry["user"], entry["uid"], entry["sudo_user"]) == (shown, os.geteuid(), "ada")
    assert entry["hostname"] == os.uname().nodename
    assert entry["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert entry["image"] == {"name": "web1.lime", "size": 6, "sha256": "ab" * 32}
    assert entry["command"] == ["memdump", "show", "x", "https://h/?[removed]", "y" * 1000 + "[4000 more]"]
    assert (entry["action"], entry["detail"]) == ("received", "over tcp")
    wall = subprocess.run(["date", "-d", entry["time"], "+%s"], capture_output=True, check=True).stdout
    assert before - 1 <= int(wall) <= time.time()


def test_only_an_acquisition_begins_a_record(image: str) -> None:
    for action in ("opened", "converted", "exported", "verified"):
        assert custody.append(image, action) is None
    assert not record_of(image).exists()
    assert custody.check(image) is None
    for action in ("acquired", "received"):
        custody.append(image, action)
        assert record_of(image).exists()
        record_of(image).unlink()


def test_an_unfinished_image_has_the_record_of_the_finished_one(tmp_path: Path) -> None:
    (tmp_path / "web1.lime.part").write_bytes(b"mem")
    custody.append(str(tmp_path / "web1.lime.part"), "acquired")
    assert (
        json.loads((tmp_path / "web1.lime.custody.jsonl").read_bytes())["image"]["name"] == "web1.lime.part"
    )


def test_a_record_can_begin_where_nothing_can_be_appended(image: str) -> None:
    line = custody.first("acquired", Subject("web1.lime", 6, None), "to s3://bucket")
    head = by_the_document(line)
    record_of(image).write_bytes(line)
    custody.mark(image, head)
    assert faults(image) == []
    custody.append(image, "opened")
    assert by_the_document(record_of(image).read_bytes()).number == 2


# ---- what is found


def changed(data: bytes) -> Any:
    """Strategies for one change of one byte: another one in its place, none, or one more."""
    places = st.integers(0, len(data) - 1)
    byte = st.integers(0, 255).map(lambda value: bytes([value]))
    return st.one_of(
        st.builds(lambda at, new: data[:at] + new + data[at + 1 :], places, byte),
        st.builds(lambda at: data[:at] + data[at + 1 :], places),
        st.builds(lambda at, new: data[:at] + new + data[at:], places, byte),
    )


def rearranged(lines: list[bytes]) -> Any:
    """Strategies for what can be done with whole lines."""
    numbers = st.lists(st.integers(0, len(lines) - 1), max_size=len(lines) + 2)
    return numbers.map(lambda chosen: b"".join(lines[number] for number in chosen))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("custody") / "web1.lime"
    path.write_bytes(b"memory")
    filled(str(path))
    return str(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(st.data())
def test_a_change_of_any_byte_is_found_without_the_mark(sample: str, data: Any) -> None:
    whole = record_of(sample).read_bytes()
    other = data.draw(changed(whole))
    assume(other != whole)
    assert custody.check_lines(other).faults


@given(st.data())
def test_any_other_order_or_choice_of_lines_is_found(sample: str, data: Any) -> None:
    whole = record_of(sample).read_bytes()
    lines = whole.splitlines(keepends=True)
    other = data.draw(rearranged(lines))
    assume(other != whole)
    marked = Head(4, hashlib.sha256(lines[3]).hexdigest())
    found = custody.check_lines(other, marked)
    assert found.faults
    # Without the mark, that entries are missing at the end is all that cannot be seen.
    assert custody.check_lines(other).faults or (whole.startswith(other) and other)


@given(st.data())
def test_an_entry_that_was_forged_whole_is_found(sample: str, data: Any) -> None:
    """Digest and predecessor are made right, as anyone can; the next line, or the mark, does not fit then."""
    lines = record_of(sample).read_bytes().splitlines(keepends=True)
    at = data.draw(st.integers(0, 3))
    forged = forge(lines[at], action="received")
    replaced = b"".join([*lines[:at], forged, *lines[at + 1 :]])
    inserted = b"".join([*lines[:at], forged, *lines[at:]])
    marked = Head(4, hashlib.sha256(lines[3]).hexdigest())
    for other in (replaced, inserted):
        assert custody.check_lines(other, marked).faults


def forge(line: bytes, **values: object) -> bytes:
    entry = {**json.loads(line), **values}
    del entry["digest"]
    content = json.dumps(entry, separators=(",", ":")).encode()[:-1]
    return content + b',"digest":"' + hashlib.sha256(content).hexdigest().encode() + b'"}\n'


@given(st.lists(st.one_of(st.binary(), st.just(b"\n"), st.just(b'{"digest":"')), max_size=8).map(b"".join))
def test_any_bytes_are_checked_without_a_fault_of_our_own(data: bytes) -> None:
    found = custody.check_lines(data)
    assert found.faults
    assert all(fault.isprintable() for fault in found.faults)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"number": -1}, "number"),
        ({"number": True}, "number"),
        ({"time": "yesterday"}, "time"),
        ({"image": None}, "image"),
        ({"image": {"name": "x", "size": -1}}, "image.size"),
        ({"command": "rm"}, "command"),
        ({"user": "\ud800"}, "user"),
        ({"previous": None}, "previous"),
    ],
)
def test_a_forged_entry_that_makes_no_sense_is_told(sample: str, values: dict[str, Any], words: str) -> None:
    line = forge(record_of(sample).read_bytes().splitlines(keepends=True)[0], **values)
    (fault,) = custody.check_lines(line).faults
    assert fault.startswith("line 1 a damaged entry: ")
    assert words in fault


def test_what_is_found_is_told(image: str) -> None:
    lines = filled(image)
    other = forge(lines[1], user="mallory")
    for found, words in (
        ([*lines[1:]], ["line 1 is not the first entry: others before it were removed"]),
        ([lines[0], *lines[2:]], ["line 2 does not follow line 1"]),
        ([lines[0], other, *lines[2:]], ["line 3 does not follow line 2"]),
        ([lines[0], lines[1].replace(b"opened", b"closed"), *lines[2:]], ["line 2 was changed after"]),
        (lines[:3], ["ends with entry 3, but the image is marked with 4: the last are missing"]),
        ([*lines[:3], forge(lines[3], user="m")], ["has another entry 4 than the image is marked with"]),
        ([*lines[:3], forge(lines[3], number=9)], ["line 4 does not follow line 3", "has another entry 4"]),
        ([*lines, b'{"number":5,'], ["line 5 is cut off"]),
        ([*lines, b"\n"], ["line 5 was changed"]),
        ([lines[0], lines[2], lines[1], lines[3]], ["line 2 does", "line 3 does", "line 4 does"]),
        ([], ["is empty", "ends with entry 0"]),
    ):
        record_of(image).write_bytes(b"".join(found))
        told = faults(image)
        assert len(told) == len(words), told
        for fault, word in zip(told, words, strict=True):
            assert fault.startswith(word)


def test_a_record_that_was_removed_is_missed(image: str) -> None:
    filled(image)
    record_of(image).unlink()
    assert faults(image) == ["is missing, but the image is marked with entry 4"]
    os.removexattr(image, ATTRIBUTE)
    assert custody.check(image) is None


def test_a_mark_that_makes_no_sense_is_none(image: str) -> None:
    filled(image)
    os.setxattr(image, ATTRIBUTE, b"\xff 9")
    found = custody.check(image)
    assert found is not None
    assert (found.marked, found.faults) == (None, [])


def test_a_mark_may_lag_behind(image: str) -> None:
    """Somebody appended who may not write to the image, or was killed before."""
    lines = filled(image)
    custody.mark(image, Head(2, hashlib.sha256(lines[1]).hexdigest()))
    assert faults(image) == []


# ---- writing


def test_a_record_goes_on_behind_a_line_that_was_cut_off(image: str) -> None:
    lines = filled(image)
    record_of(image).write_bytes(b"".join(lines[:3]) + lines[3][:50])
    custody.append(image, "opened")
    custody.append(image, "opened")
    assert faults(image) == ["line 4 was changed after it was written, or only half written"]
    entries = [json.loads(line) for line in record_of(image).read_bytes().splitlines()[4:]]
    assert [entry["number"] for entry in entries] == [5, 6]
    by_the_document(
        b"".join(record_of(image).read_bytes().splitlines(keepends=True)[5:]), 5, entries[1]["previous"]
    )


def test_nothing_is_added_to_what_is_no_record(image: str) -> None:
    record_of(image).write_bytes(b"hello\n" * 1000)
    with pytest.raises(MemdumpError, match="not recorded: the record is damaged"):
        custody.append(image, "opened")
    assert record_of(image).read_bytes() == b"hello\n" * 1000


def test_a_long_record_is_not_read_whole(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head = custody.append(image, "acquired")
    for _ in range(20):
        head = custody.append(image, "opened")
    monkeypatch.setattr(custody, "_TAIL", 1000)
    assert head is not None
    assert custody.append(image, "opened") == by_the_document(record_of(image).read_bytes())


def test_the_longest_entry_is_found_again(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["\U0001f600" * 2000] * 2000)
    for _ in range(3):
        custody.append(image, "acquired")
    assert len(record_of(image).read_bytes()) < 3 * custody._TAIL // 2
    assert faults(image) == []


def test_what_cannot_be_recorded_is_told_in_a_line(image: str, tmp_path: Path) -> None:
    os.mkfifo(record_of(image))
    with pytest.raises(MemdumpError, match="not recorded: it is no file"):
        custody.append(image, "opened")
    record_of(image).unlink()
    (tmp_path / "elsewhere").write_bytes(b"")
    record_of(image).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MemdumpError, match="not recorded"):
        custody.append(image, "opened")
    with pytest.raises(MemdumpError, match="no such folder"):
        custody.append(str(tmp_path / "none" / "x"), "acquired")
    record_of(image).unlink()
    record_of(image).mkdir()
    with pytest.raises(MemdumpError, match="Is a directory"):
        custody.append(image, "opened")
    with pytest.raises(MemdumpError, match="Is a directory"):
        custody.check(image)


def test_a_record_on_a_read_only_medium_is_told(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(image)
    opened = os.open

    def read_only(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_RDWR:
            raise OSError(30, "Read-only file system", path)
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(MemdumpError, match=r"custody\.jsonl: this is not recorded: Read-only file system"):
        custody.append(image, "opened")


def test_an_image_that_cannot_be_marked_is_still_recorded(
    image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    filled(image)
    found = custody.check(image)
    assert found is not None
    assert (found.marked, found.faults) == (None, [])


def test_a_full_disk_leaves_no_half_line(image: str) -> None:
    lines = filled(image)
    code = (
        "import resource, signal, sys; from memdump.machine import custody\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(b''.join(lines)) + 100},) * 2)\n"
        "try: custody.append(sys.argv[1], 'opened')\n"
        "except custody.MemdumpError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, image], capture_output=True, text=True, check=True)
    assert "this is not recorded: No space left on device" in done.stdout
    assert record_of(image).read_bytes() == b"".join(lines)


def test_a_lock_that_is_kept_is_not_waited_for_long(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(image)
    monkeypatch.setattr(custody, "_WAIT", 0.05)
    with record_of(image).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(MemdumpError, match="another program keeps it locked"):
            custody.append(image, "opened")
    custody.append(image, "opened")


WRITER = """
import sys
from memdump.machine import custody
for _ in range(int(sys.argv[2])):
    custody.append(sys.argv[1], "opened")
"""


def writer(image: str, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, image, str(count)])


def test_several_at_once_keep_the_chain_whole(image: str) -> None:
    custody.append(image, "acquired")
    writers = [writer(image, 50) for _ in range(4)]
    assert [process.wait(120) for process in writers] == [0] * 4
    head = by_the_document(record_of(image).read_bytes())
    assert head.number == 201
    found = custody.check(image)
    assert isinstance(found, Record)
    assert (found.faults, found.marked) == ([], head)


def test_a_writer_that_is_killed_leaves_the_chain_whole(image: str) -> None:
    custody.append(image, "acquired")
    chance = random.Random(1)
    for _ in range(8):
        before = record_of(image).stat().st_size
        with writer(image, 1_000_000) as process:
            while record_of(image).stat().st_size == before:
                time.sleep(0.005)
            time.sleep(chance.random() / 20)
            process.send_signal(signal.SIGKILL)
        by_the_document(record_of(image).read_bytes())
        assert faults(image) == []
    assert custody.append(image, "verified") == by_the_document(record_of(image).read_bytes())
