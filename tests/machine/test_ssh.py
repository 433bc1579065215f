"""The memory of another machine over ssh, with an ssh that runs the command right here.

The far end reads a kcore in a file, in all these tests: never that of the machine that they run on.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import sys
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.errors import MemdumpError, NotPermitted, UsageError
from memdump.machine import host, pieces, ssh, ssh_wire
from memdump.machine.acquire import Plan, acquire
from memdump.machine.source import Range
from memdump.machine.sources import open_source
from memdump.machine.ssh import SshSource
from memdump.machine.ssh_questions import Questions
from tests.machine import fake_kcore, pythons

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.machine.fake_kcore import Machine

FAKE_SSH = """\
#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift 2
{before}
exec sh -c "$*"
"""
START = """\
import sys
from memdump.machine import kcore, serve, sources
serve.main(lambda: sources.Chosen(kcore.KcoreSource({kcore!r}, {iomem!r}), [("other", "does not work")]))
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose memory the far end reads."""
    made = fake_kcore.make(tmp_path)
    monkeypatch.setattr(ssh, "START", START.format(kcore=str(made.kcore), iomem=str(made.iomem)))
    return made


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Callable[..., None]:
    """Put an ssh in place that runs the command here, with nothing but the given Python."""

    def put(python: str = sys.executable, before: str = "", tools: tuple[str, ...] = ("sh", "id")) -> None:
        programs = tmp_path / "bin"
        programs.mkdir()
        for tool in tools:
            (programs / tool).symlink_to(f"/usr/bin/{tool}")
        if python:
            (programs / "python3").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
            (programs / "python3").chmod(0o755)
        (programs / "ssh").write_text(FAKE_SSH.format(before=before))
        (programs / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", str(programs))
        if os.getuid():  # who is not root here would need sudo
            (programs / "id").unlink()
            (programs / "id").write_text("#!/bin/sh\necho 0\n")
            (programs / "id").chmod(0o755)

    return put


@pytest.fixture
def source(fake: Callable[..., None]) -> Iterator[SshSource]:
    fake()
    with contextlib.closing(SshSource("web1")) as opened:
        yield opened


def read(source: SshSource, start: int, size: int) -> bytes:
    buffer = bytearray(size)
    source.read_into(start, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("python", pythons.NEW_ENOUGH, ids=pythons.TRIED)
def test_the_memory_is_that_of_the_other_machine(
    fake: Callable[..., None], machine: Machine, python: str
) -> None:
    fake(python)
    with contextlib.closing(SshSource("web1")) as source:
        assert {found.start: found.size for found in source.ranges()} == {
            start: len(data) for start, data in machine.memory.items()
        }
        for start, data in machine.memory.items():
            assert read(source, start, len(data)) == data
        assert source.vmcoreinfo == "OSRELEASE=6.1.0\n"
        assert source.host() == host.this_host()
        assert source.name == "kcore over ssh"
        assert source.refused == [("other", "does not work")]
        assert source.now().boot_time_ns <= host.now().boot_time_ns
        assert source.broken() == host.broken_memory()


def test_an_acquisition_has_every_byte(source: SshSource, machine: Machine) -> None:
    image = io.BytesIO()
    taken = acquire(source, image, Plan(), lambda _: None, lambda: None)
    assert taken.complete
    assert taken.unreadable == []
    memory = b"".join(data for data in machine.memory.values())
    without_headers = image.getvalue()
    place, found = 0, b""
    while place < len(without_headers):
        first, last = (int.from_bytes(without_headers[place + at :][:8], "little") for at in (8, 16))
        found += without_headers[place + 32 :][: last - first + 1]
        place += 32 + last - first + 1
    assert found == memory


def test_memory_that_is_added_there_is_told(source: SshSource, machine: Machine) -> None:
    with machine.iomem.open("a") as file:
        file.write("100000000-13fffffff : System RAM\n")
    taken = acquire(source, io.BytesIO(), Plan(), lambda _: None, lambda: None)
    assert taken.added == [Range(0x100000000, 0x40000000)]
    assert taken.ranges == [*source.ranges()]
    machine.iomem.unlink()
    assert source.ranges_now() == source.ranges()
    assert read(source, 0x1000, 16) == machine.memory[0x1000][:16]


def test_memory_that_is_taken_from_it_is_told(source: SshSource, machine: Machine) -> None:
    lines = machine.iomem.read_text().splitlines(keepends=True)
    lost = [line for line in lines if line.startswith("00100000-")]
    assert lost
    machine.iomem.write_text("".join(line for line in lines if line not in lost))
    taken = acquire(source, io.BytesIO(), Plan(), lambda _: None, lambda: None)
    assert taken.removed == [Range(0x100000, len(machine.memory[0x100000]))]
    assert taken.added == []
    assert list(taken.ranges) == [*source.ranges()]


def test_zeros_and_what_is_between_them_arrive(
    fake: Callable[..., None], machine: Machine, tmp_path: Path
) -> None:
    memory = bytearray(0x300000)
    for at in (0, 0x5000, 0x6FFF, 0x2FFFFF):
        memory[at] = 0x5A
    with machine.kcore.open("r+b") as file:
        file.seek(0x10000 + 0x100000)
        file.write(memory)
    fake()
    with contextlib.closing(SshSource("web1")) as source:
        assert read(source, 0x100000, 0x300000) == memory
        assert read(source, 0x110000, 0x2000) == bytes(0x2000)


def test_what_was_announced_is_what_is_read(source: SshSource, machine: Machine) -> None:
    data = machine.memory[0x100000]
    blocks = [Range(0x100000 + at, 0x10000) for at in range(0, 0x300000, 0x10000)]
    source.expect(blocks)
    for block in blocks[:5] + blocks[9:]:  # some are left out, one is read in two parts, one not announced
        at = block.start - 0x100000
        assert read(source, block.start, 0x8000) == data[at : at + 0x8000]
        if block is blocks[3]:
            source.now()
            assert read(source, 0x1000, 0x1000) == machine.memory[0x1000][:0x1000]
        assert read(source, block.start + 0x8000, 0x8000) == data[at + 0x8000 : at + 0x10000]


@pytest.mark.parametrize("announced", [False, True])
def test_what_cannot_be_read_is_an_error_of_its_own(source: SshSource, announced: bool) -> None:
    if announced:
        source.expect([Range(0x500000, 0x1000), Range(0x1000, 0x1000)])
    with pytest.raises(OSError, match="kcore does not hold physical address 0x500000"):
        read(source, 0x500000, 0x1000)
    assert len(read(source, 0x1000, 0x1000)) == 0x1000


def test_what_a_login_shell_prints_is_passed_over(fake: Callable[..., None], machine: Machine) -> None:
    fake(before="echo Welcome to web1; printf '\\000memdump'")
    with contextlib.closing(SshSource("web1")) as source:
        assert read(source, 0x1000, 16) == machine.memory[0x1000][:16]


def test_the_far_end_ends_when_the_connection_does(source: SshSource) -> None:
    source._session._to.close()
    assert source._session._process.wait(30) == 0


def test_a_lost_connection_is_told_in_the_words_of_ssh(source: SshSource) -> None:
    source._session._process.kill()
    with pytest.raises(MemdumpError, match=r"^web1: the connection ended: ssh ended with status -9$"):
        for _ in range(10):
            read(source, 0x1000, 0x1000)


def test_what_is_asked_after_the_connection_was_lost_is_answered_alike(source: SshSource) -> None:
    source._session._process.kill()
    source._session._process.wait()
    for _ in range(2):
        with pytest.raises(MemdumpError, match=r"^web1: the connection ended: ssh ended with status -9$"):
            source._session.send(b"x")
    assert source._session._to.closed
    with pytest.raises(MemdumpError, match=r"^web1: the connection ended"):
        source.broken()
    assert source.now().boot_time_ns > 0  # gone on since it was last in reach


def test_an_acquisition_that_loses_the_connection_is_partial(source: SshSource) -> None:
    image = io.BytesIO()

    def stop() -> None:
        if image.tell() > 0x27000:
            source._session._process.kill()

    with mock.patch.object(pieces, "BLOCK", 0x10000):  # or else all of it is on its way by then
        taken = acquire(source, image, Plan(), lambda _: None, stop)
    assert not taken.complete
    assert taken.stopped_by
    assert taken.stopped_by.startswith("web1: the connection ended")
    assert taken.ended.utc > taken.started.utc
    assert taken.started.boot_time_ns < taken.ended.boot_time_ns < host.now().boot_time_ns


@pytest.mark.parametrize(
    ("before", "kind", "said"),
    [
        (
            "echo 'ssh: connect to host web1 port 22: Connection refused' >&2; exit 255",
            MemdumpError,
            "web1: the connection ended: ssh: connect to host web1 port 22: Connection refused",
        ),
        (
            "echo 'Host key verification failed.' >&2; exit 255",
            NotPermitted,
            "web1: Host key verification failed. This is not the host that ssh knows by that name",
        ),
        (
            "echo 'sudo: a password is required' >&2; exit 1",
            NotPermitted,
            "web1: sudo: a password is required; log in as root, or let this user run sudo without",
        ),
        ("echo 'analyst@web1: Permission denied (publickey).' >&2; exit 255", NotPermitted, "(publickey)"),
        ("exit 3", MemdumpError, "web1: the connection ended: ssh ended with status 3"),
        ("while :; do echo; done", MemdumpError, "web1: its login shell prints too much"),
    ],
)
def test_what_goes_wrong_is_one_line(
    fake: Callable[..., None], before: str, kind: type[MemdumpError], said: str
) -> None:
    fake(before=before)
    with pytest.raises(kind) as caught:
        SshSource("web1")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("python", ["", *pythons.TOO_OLD])
def test_a_python_that_is_missing_or_too_old_is_said_to_be(fake: Callable[..., None], python: str) -> None:
    fake(python)
    with pytest.raises(MemdumpError, match=r"web1 has no Python 3\.8 or newer \(.*(not found|3\.\d+\.\d+)"):
        SshSource("web1")


def test_a_source_that_does_not_open_there_is_told_as_here(
    fake: Callable[..., None], machine: Machine
) -> None:
    machine.iomem.write_text("00000000-00000000 : System RAM\n")
    fake()
    with pytest.raises(NotPermitted, match=r"^web1: /proc/iomem hides its addresses"):
        SshSource("web1")


def test_a_fault_there_is_one_line_too(fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    fake()
    monkeypatch.setattr(ssh, "START", "from memdump.machine import serve\nserve.main(lambda: 1 / 0)")
    with pytest.raises(MemdumpError, match=r"^web1: a fault of memdump's far end \(ZeroDivisionError: "):
        SshSource("web1")


@pytest.mark.parametrize("destination", ["", "-oProxyCommand=touch /tmp/owned"])
def test_a_destination_is_no_option(destination: str) -> None:
    with pytest.raises(UsageError, match="is no host"):
        SshSource(destination)


def test_options_reach_ssh(fake: Callable[..., None], tmp_path: Path) -> None:
    fake()
    (tmp_path / "bin/ssh").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/arguments\n')
    with pytest.raises(MemdumpError):
        SshSource("me@web1", options=["Port=2222", "-Fconfig"])
    given = (tmp_path / "arguments").read_text().splitlines()
    assert given[:2] == ["-oPort=2222", "-Fconfig"]
    assert given[-3:-1] == ["--", "me@web1"]


def test_a_port_can_be_a_part_of_the_address(fake: Callable[..., None], tmp_path: Path) -> None:
    fake()
    (tmp_path / "bin/ssh").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/arguments\n')
    with pytest.raises(MemdumpError):
        open_source("ssh://me@web1:2222")
    assert (tmp_path / "arguments").read_text().splitlines()[-2] == "ssh://me@web1:2222"


def test_an_interrupt_is_for_memdump_not_for_ssh(fake: Callable[..., None], tmp_path: Path) -> None:
    fake()
    say = f"open({str(tmp_path / 'status')!r}, 'w').write(open('/proc/self/status').read())"
    (tmp_path / "bin/ssh").write_text(f"#!{sys.executable} -IS\n{say}\n")
    with pytest.raises(MemdumpError):
        SshSource("web1")
    blocked = re.search(r"^SigBlk:\s*(\w+)$", (tmp_path / "status").read_text(), re.MULTILINE)
    assert blocked
    assert int(blocked[1], 16) == 1 << signal.SIGINT - 1 | 1 << signal.SIGHUP - 1


def test_nothing_is_written_where_it_runs(fake: Callable[..., None], tmp_path: Path) -> None:
    fake(tools=("sh", "id"))
    before = sorted(tmp_path.rglob("*"))
    with contextlib.closing(SshSource("web1")) as source:
        read(source, 0x1000, 0x1000)
    assert sorted(tmp_path.rglob("*")) == before


class Line:
    """A far end that says what it is told to."""

    destination = "web1"

    def __init__(self, said: bytes) -> None:
        self.said = io.BytesIO(said)
        self.log: list[Any] = []

    def send(self, data: bytes) -> None:
        self.log.append(ssh_wire.REQUEST.unpack(data))

    def receive(self, size: int) -> bytearray:
        self.log.append("received")
        data = bytearray(self.said.read(size))
        if len(data) < size:
            raise MemdumpError("lost")
        return data


def answer(kind: bytes, payload: bytes) -> bytes:
    return ssh_wire.ANSWER.pack(kind, len(payload)) + payload


def test_questions_go_out_before_answers_are_waited_for() -> None:
    size = 2 << 20
    line = Line(answer(b"Z", b"") * 9)
    questions = Questions(line)
    blocks = [Range(index * size, size) for index in range(9)]
    questions.expect(blocks)
    assert line.log == [(b"R", index * size, size) for index in range(4)]
    for block in blocks:
        assert questions.read(block) == bytes(size)
    asked = [entry for entry in line.log if entry != "received"]
    assert asked == [(b"R", block.start, size) for block in blocks]
    assert line.log[4:7] == ["received", "received", (b"R", 4 * size, size)]


def test_what_was_announced_and_not_wanted_makes_room_for_more() -> None:
    line = Line(answer(b"Z", b"") * 9)
    questions = Questions(line)
    blocks = [Range(index << 21, 1 << 21) for index in range(9)]
    questions.expect(blocks)
    questions.read(blocks[5])
    asked = [entry[1] >> 21 for entry in line.log if entry != "received"]
    assert asked == [0, 1, 2, 3, 5, 6, 7, 8]  # the first four before it was known


def test_no_more_questions_are_open_than_a_pipe_holds() -> None:
    line = Line(b"")
    Questions(line).expect([Range(index * 4096, 4096) for index in range(5000)])
    assert len(line.log) * ssh_wire.REQUEST.size < 16384


@given(st.lists(st.sampled_from([b"\0" * 4096, b"\1" * 4096, b"\0" * 4095 + b"\1"])), st.binary(max_size=99))
def test_a_block_arrives_as_it_was(pieces: list[bytes], rest: bytes) -> None:
    data = b"".join(pieces) + rest
    kind, parts = ssh_wire.pack(bytearray(data))
    payload = b"".join(parts)
    assert len(payload) <= len(data) + len(data) // 4096 + 1
    assert ssh_wire.unpack(kind, payload, len(data)) == data


@given(st.sampled_from([b"D", b"S", b"Z", b"?"]), st.binary(max_size=20000), st.integers(0, 20000))
def test_a_block_has_the_size_that_was_asked_for_or_is_refused(
    kind: bytes, payload: bytes, size: int
) -> None:
    with contextlib.suppress(ValueError):
        assert len(ssh_wire.unpack(kind, payload, size)) == size


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
)
FRAMES = st.builds(
    answer,
    st.sampled_from([b"D", b"S", b"Z", b"P", b"T", b"X", b"E", b"?"]),
    st.binary(max_size=600) | JSON.map(lambda value: json.dumps(value).encode()),
)


@given(st.binary(max_size=40) | st.lists(FRAMES, max_size=6).map(b"".join))
def test_whatever_a_far_end_says_nothing_worse_than_an_error_comes_of_it(said: bytes) -> None:
    asked: list[Callable[[Questions], object]] = [
        lambda questions: questions.read(Range(0, 8192)),
        lambda questions: questions.flags(Range(0, 8192), 16),
        lambda questions: questions.now().instant("now"),
        lambda questions: questions.hear().ranges("ranges"),
        lambda questions: questions.hear().host("host"),
    ]
    for ask in asked:
        questions = Questions(Line(said))
        questions.expect([Range(8192, 4096)])
        for _ in range(3):
            with contextlib.suppress(MemdumpError, OSError):
                ask(questions)


def test_a_block_of_which_a_byte_is_missing_or_too_many_is_refused() -> None:
    data = bytearray(b"\1" * 4096 + bytes(4096) + b"\1")
    kind, parts = ssh_wire.pack(data)
    payload = b"".join(parts)
    assert kind == b"S"
    for other in (payload[:-1], payload + b"\1"):
        with pytest.raises(ValueError, match="not as much memory"):
            ssh_wire.unpack(kind, other, len(data))


def test_a_flood_of_flags_is_not_unpacked() -> None:
    line = Line(answer(b"P", zlib.compress(bytes(1 << 24))))
    tracemalloc.start()
    try:
        with pytest.raises(MemdumpError, match="makes no sense"):
            Questions(line).flags(Range(0, 8192), 16)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
