"""The small parts: maps, registers, pages of zeros, the choice of mappings."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memdump.process import backing, maps, proc, selection
from memdump.process.architecture import AARCH64, X86_64, Architecture
from memdump.process.corefile import Segment, begin
from memdump.process.maps import Details, Mapping
from memdump.process.selection import Choice, choose
from memdump.process.sparse import Sparse
from tests.process.cores import Core

PAGE = 4096


@given(st.binary(max_size=400))
@example(b"00400000-00401000 r-xp 00000000 08:01 12 /bin/a\n")
@example(b"zz-1 r-xp 0 0:0 1 x\n400-500 rw-p 0 0:0 0")
def test_maps_that_are_none_make_no_trouble(text: bytes) -> None:
    for found in maps.parse(text):
        assert 0 <= found.elf_flags < 8
    maps.parse_details(text)


def test_our_own_maps_are_read_as_they_are() -> None:
    text = proc.read(os.getpid(), "maps")
    found = maps.parse(text)
    assert len(found) == text.count(b"\n")
    details = maps.parse_details(proc.read(os.getpid(), "smaps"))
    assert details[next((one.start, one.end) for one in found if one.path == b"[stack]")].resident > 0


def test_the_holder_of_a_mapping_may_end_while_its_file_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is asked for once: the second time there may be no such process any more."""
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * PAGE))
    seen, look = set(), os.stat

    def once(asked: str) -> os.stat_result:
        if asked in seen:
            raise ProcessLookupError
        found = look(asked)
        seen.add(asked)
        return found

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        mappings = maps.parse(proc.read(os.getpid(), "maps"))
        (mapping,) = (one for one in mappings if one.path == os.fsencode(path))
        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", once)
            assert backing.end_in(mapping, os.getpid()) == 2 * PAGE


@pytest.mark.parametrize("name", ["a b", "new\nline", "paren) S (", "\u00e9"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    child = subprocess.Popen([program, "99"])
    try:
        while proc.read(child.pid, "syscall").split()[0] not in (b"230", b"115"):  # it sleeps
            time.sleep(0.01)
        assert proc.stat(child.pid).comm == name.encode()
        assert proc.stat(child.pid).parent == os.getpid()
        paths = {found.path for found in maps.parse(proc.read(child.pid, "maps"))}
        assert os.fsencode(program) in paths
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("known", [X86_64, AARCH64], ids=lambda one: one.name)
def test_a_call_changes_what_it_must_and_no_more(known: Architecture) -> None:
    before = list(range(1000, 1000 + known.words))
    after = known.unpack(known.calling(known.pack(before), 0x7000, "wait4", [5, 0, 9]))
    assert after[known.pc] == 0x7000
    assert after[known.number] == known.numbers["wait4"]
    assert [after[index] for index in known.arguments] == [5, 0, 9, 0, 0, 0]
    register, bits = known.branch
    assert after[register] == before[register] & ~bits or register in known.arguments
    touched = {known.pc, known.number, known.original, register, *known.arguments}
    assert [after[n] for n in range(known.words) if n not in touched] == [
        before[n] for n in range(known.words) if n not in touched
    ]


def test_only_what_was_interrupted_for_us_is_called_again() -> None:
    """EINTR of epoll_wait becomes ERESTARTNOHAND; of other calls, and outside of any, it stays."""
    words = [0] * X86_64.words
    for number, result, corrected in ((232, -4, True), (3, -4, False), (232, -9, False), (-1, -4, False)):
        words[15], words[10] = number, result
        found = X86_64.uninterrupted(X86_64.pack(words))
        assert (found is not None) is corrected
        if found:
            assert X86_64.returned(found) == -514


class Place:
    def __init__(self) -> None:
        self.content = b""
        self.skipped = 0

    def write(self, data: bytes | memoryview, /) -> None:
        self.content += bytes(data)

    def skip(self, size: int) -> None:
        self.content += bytes(size)
        self.skipped += size


@given(st.lists(st.sampled_from(["zeros", "first", "last", "full"]), max_size=12))
def test_zeros_and_nothing_else_are_skipped(kinds: list[str]) -> None:
    pages = {
        "zeros": bytes(PAGE),
        "first": b"\1" + bytes(PAGE - 1),
        "last": bytes(PAGE - 1) + b"\1",
        "full": b"\1" * PAGE,
    }
    data = b"".join(pages[kind] for kind in kinds)
    place = Place()
    Sparse(place).write(memoryview(data))
    assert place.content == data
    assert place.skipped == kinds.count("zeros") * PAGE


def mapping(permissions: str = "rw-p", path: bytes = b"", inode: int = 0, offset: int = 0) -> Mapping:
    return Mapping(0x10000, 0x20000, permissions, offset, "08:01", inode, path)


@pytest.mark.parametrize(
    ("found", "details", "choice", "size"),
    [
        (mapping(), Details(), Choice(), 0x10000),
        (mapping(path=b"[vvar]"), Details(), Choice(), 0),
        (mapping(), Details(flags=frozenset(["io"])), Choice(), 0),
        (mapping("---p"), Details(), Choice(), 0),
        (mapping("---p"), Details(resident=PAGE), Choice(), 0x10000),
        (mapping("r-xp", b"/bin/a", 7, PAGE), Details(), Choice(frozenset(["file"])), 0),
        (mapping("r--p", b"/bin/a", 7), Details(), Choice(frozenset(["file"])), PAGE),
        (mapping("r--p", b"/bin/a", 7), Details(anonymous=PAGE), Choice(frozenset(["file"])), 0x10000),
        (mapping("rw-s", b"/dev/shm/a", 7), Details(), Choice(frozenset(["file"])), 0x10000),
        (mapping("rw-s", b"/dev/shm/a", 7), Details(), Choice(frozenset(["shared"])), 0),
        (mapping(), Details(flags=frozenset(["ht"])), Choice(frozenset(["huge"])), 0),
        (mapping(), Details(flags=frozenset(["dd"])), Choice(filter=0x7F), 0),
        (mapping(), Details(), Choice(filter=0), 0),
        (mapping("r--p", b"/bin/a", 7), Details(), Choice(filter=0x10), PAGE),
    ],
)
def test_what_goes_into_the_core(found: Mapping, details: Details, choice: Choice, size: int) -> None:
    (one,) = choose([found], {(found.start, found.end): details}, choice)
    assert one.size == size
    assert (one.reason is None) == (size == found.size)


def test_kinds_are_those_of_the_command() -> None:
    assert selection.KINDS == ("file", "shared", "huge")


@pytest.mark.parametrize("count", [1, 3, 0xFFFE, 0xFFFF, 70_000])
def test_any_number_of_segments(tmp_path: Path, count: int) -> None:
    """readelf counts them too; from 65535 on the number stands elsewhere."""
    note = struct.pack("=III", 5, 0, 1) + b"CORE\0\0\0\0"
    segments = [Segment(PAGE * 2 * n, PAGE, 0, 4) for n in range(count)]
    path = tmp_path / "core"
    path.write_bytes(begin(62, note, segments))
    assert len(Core(path).segments) == count
    if count > 3:
        out = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True).stdout
        assert out.count("LOAD") == count
