"""Processes that are copied while they run: the core shows one instant all the same."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memdump import cli
from memdump.process import capture, precopy, safety, watching
from memdump.process.guardian import Guardian, Held
from tests.process.cores import Core
from tests.process.debugger import gdb
from tests.process.targets import begun, built, needs_gcc, needs_gdb, running
from tests.process.test_core import is_whole
from tests.process.test_target_unharmed import is_not_watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.process.targets import Running

pytestmark = [
    needs_gcc,
    pytest.mark.skipif(not watching.is_supported(), reason="this kernel cannot watch what a process writes"),
]
PAGE, PAGES, REGIONS = 4096, 64, 48
FILE_BASE = 1 << 60
REST = 64
SIZE, HUGE = 64 * PAGE, 2 << 20
SHARED = 100 << 20


TAKING = [sys.executable, "-m", "memdump", "process", "--mode", "precopy"]


def memdump(pid: int, *words: object) -> subprocess.CompletedProcess[str]:
    command = [*TAKING, str(pid), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def take(pid: int, out: Path, *options: str) -> dict[str, Any]:
    done = memdump(pid, out, *options)
    assert done.returncode == 0, done.stderr
    manifest: dict[str, Any] = json.loads(Path(f"{out}.json").read_text())
    assert manifest["process"]["mode_asked"] == "precopy"
    return manifest


def ends(content: bytes) -> set[int]:
    """The first and the last word of a page."""
    return {*struct.unpack("=Q", content[:8]), *struct.unpack("=Q", content[-8:])}


def check_shifting(core: Core, table: int, busy: int) -> int:
    """Compare each page with what the program's own table says of it; gives how many there are."""
    (changing,) = struct.unpack("=Q", core.read(busy, 8))
    size, count = 8 * (4 + PAGES), 0
    for number in range(REGIONS):
        start, pages, _, _, *held = struct.unpack(f"={4 + PAGES}Q", core.read(table + number * size, size))
        if number + 1 == changing or not start:
            continue
        for page in range(pages):
            assert ends(core.read(start + page * PAGE, PAGE)) == {held[page]}, (number, page, changing)
            count += 1
    return count


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Of which each page can be told."""
    path = tmp_path / "file"
    path.write_bytes(b"".join(struct.pack("=Q", FILE_BASE + n) * (PAGE // 8) for n in range(PAGES)))
    return path


@contextlib.contextmanager
def shifting(file: Path, seed: int) -> Iterator[tuple[Running, Callable[[Path], None]]]:
    """A program whose mappings come and go, and how to check a core of it."""
    with begun([str(built("shifting")), str(file), str(REST), str(seed)]) as target:
        table, busy, rest, pages = (int(word, 16) for word in target.line().split())

        def check(path: Path) -> None:
            core = Core(path)
            assert check_shifting(core, table, busy) > PAGES
            assert all(ends(core.read(rest + n * PAGE, PAGE)) == {n} for n in range(0, pages, 7))

        yield target, check
        assert target.process.poll() is None


def test_mappings_that_come_and_go_are_as_they_were_at_one_instant(tmp_path: Path, file: Path) -> None:
    """New ones, others in their place, emptied, moved, grown, and protected ones."""
    modes = []
    for seed in range(3):
        with shifting(file, seed) as (target, check):
            for number in range(6):
                out = tmp_path / f"{seed}-{number}"
                modes.append(take(target.pid, out)["process"]["mode"])
                check(out)
                out.unlink()
    assert modes.count("precopy") > len(modes) // 2


@pytest.mark.parametrize("mode", ["fork", "freeze"])
def test_what_is_too_much_for_the_stop_is_taken_from_a_copy_or_while_it_stands(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Both are as consistent; which one it is the room for a copy decides."""
    monkeypatch.setattr(capture, "_RUNS", 0)
    if mode == "freeze":
        monkeypatch.setattr(safety, "reason_against_copy", lambda *_: "there is no room")
    for seed in range(2):
        with shifting(file, seed) as (target, check):
            for number in range(4):
                out = tmp_path / f"{seed}-{number}"
                assert cli.main(["process", str(target.pid), str(out), "--mode", "precopy"]) == 0
                process = json.loads(Path(f"{out}.json").read_text())["process"]
                assert process["mode"] == mode
                assert "more of its memory than could be read in the stop" in process["why_not"]
                assert len(process["pause_us"]) == (3 if mode == "fork" else 2)
                check(out)


def test_a_program_that_writes_all_the_time_is_copied_by_fork(tmp_path: Path) -> None:
    with begun([str(built("pattern")), "64"]) as target:
        start, size = (int(word, 16) for word in target.line().split())
        for number in range(4):
            found = take(target.pid, tmp_path / f"{number}", "--skip", "file")["process"]
            assert (found["mode"], found["live"]) == ("fork", [])
            assert is_whole(Core(tmp_path / f"{number}").read(start, size))


def test_a_large_process_is_copied_while_it_runs(tmp_path: Path) -> None:
    with running("tick", 300, first=False) as target:
        assert target.patient_line() == "ready"
        process = take(target.pid, tmp_path / "large")["process"]
        is_not_watched(target.pid)
        assert (process["mode"], process["why_not"], process["live"]) == ("precopy", None, [])
        assert sum(size for _, size in process["read_in_the_stop"]) < 32 << 20


@pytest.mark.parametrize("options", [["{}.zst"], ["{}", "--digest"], ["{}", "--split", "1G"]])
def test_what_is_written_in_order_is_copied_by_fork(tmp_path: Path, options: list[str]) -> None:
    with running("tick", 1) as target:
        words = [one.format(tmp_path / "core") for one in options]
        done = memdump(target.pid, *words)
    assert done.returncode == 0, done.stderr
    assert f"process {target.pid} is not copied while it runs: only a plain file" in done.stderr
    assert "fork mode" in done.stderr


@needs_gdb
def test_headers_without_room_in_front_stand_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gdb finds them there."""
    with running("deep", 3) as target:
        for name in ("front", "end"):
            assert cli.main(["process", str(target.pid), str(tmp_path / name), "--mode", "precopy"]) == 0
            monkeypatch.setattr(precopy, "_ROOM", PAGE)
            monkeypatch.setattr(precopy, "_EACH", 0)
    headers = [struct.unpack("=Q", (tmp_path / name).read_bytes()[32:40])[0] for name in ("front", "end")]
    assert headers[0] == 64
    assert headers[1] > (tmp_path / "end").stat().st_size // 2
    front, end = (
        gdb(built("deep"), tmp_path / name, "thread apply all bt", "info registers")
        for name in ("front", "end")
    )
    assert front.count("go_down") > 3
    assert front == end


@contextlib.contextmanager
def copying(target: Running, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """memdump, when it has begun to copy a process that runs."""
    words = [*TAKING, str(target.pid), str(folder / "core")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as dump:
        while not (folder / "core.part").exists():
            assert dump.poll() is None
        yield dump


def _nothing_is_left(folder: Path, target: Running) -> None:
    assert not list(folder.iterdir())
    assert target.status("TracerPid") == "0"
    is_not_watched(target.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_it_is_copied_nothing_is_kept(tmp_path: Path, number: signal.Signals) -> None:
    with running("tick", 600, first=False) as target:
        assert target.patient_line() == "ready"
        with copying(target, tmp_path) as dump:
            dump.send_signal(number)
            said = dump.communicate()[1]
        assert dump.returncode == 1, said
        assert f"stopped by {number.name} before the process was taken; nothing was kept" in said
        _nothing_is_left(tmp_path, target)
        assert target.ask()


def test_killed_while_it_is_copied_the_process_runs_on(tmp_path: Path) -> None:
    with running("tick", 600, first=False) as target:
        assert target.patient_line() == "ready"
        for _ in range(8):
            with copying(target, tmp_path) as dump:
                time.sleep(random.random() * 0.3)
                dump.kill()
            (tmp_path / "core.part").unlink(missing_ok=True)
            for path in tmp_path.iterdir():
                path.unlink()
            is_not_watched(target.pid)
            assert target.ask()


def test_a_process_that_ends_while_it_is_copied(tmp_path: Path) -> None:
    with running("tick", 600, first=False) as target:
        assert target.patient_line() == "ready"
        with copying(target, tmp_path) as dump:
            target.process.kill()
            said = dump.communicate()[1]
    assert dump.returncode == 1, said
    assert "memdump: the process has ended, or executes another program" in said
    assert not list(tmp_path.iterdir())


def test_a_file_that_may_not_become_so_large(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 20, resource.RLIM_INFINITY))

    with running("tick", 300, first=False) as target:
        assert target.patient_line() == "ready"
        words = [*TAKING, str(target.pid), str(tmp_path / "core")]
        done = subprocess.run(words, capture_output=True, text=True, preexec_fn=limit)
        assert done.returncode == 1, done.stderr
        assert "does not take a file of this size; nothing was kept" in done.stderr
        _nothing_is_left(tmp_path, target)


@contextlib.contextmanager
def hooked(
    file: Path, untouched: int = 0, sparse: int = 0, huge: int = 0
) -> Iterator[tuple[Running, list[int]]]:
    with begun([str(built("hooked")), str(file), str(untouched), str(sparse), str(huge)]) as target:
        yield target, [int(word, 16) for word in target.line().split()]


def tell(target: Running, what: str) -> None:
    assert target.process.stdin
    target.process.stdin.write(f"{what}\n")
    target.process.stdin.flush()
    if target.line() != "0":
        pytest.skip("this kernel does not do that")


def before_the_stop(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something when all is copied and nothing stands yet."""
    hold = Guardian.hold

    def first(self: Guardian) -> Held:
        action()
        return hold(self)

    monkeypatch.setattr(Guardian, "hold", first)


def taken(target: Running, out: Path, *options: str) -> tuple[int, dict[str, Any]]:
    status = cli.main(["process", str(target.pid), str(out), "--mode", "precopy", *options])
    return status, json.loads(Path(f"{out}.json").read_text())


def test_pages_of_a_file_that_were_let_go_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hooked(tmp_path / "file") as (target, (changed, *_)):
        before_the_stop(monkeypatch, lambda: tell(target, "d"))
        assert taken(target, tmp_path / "core")[0] == 0
        assert set(Core(tmp_path / "core").read(changed, SIZE)) == set(b"F")


def test_huge_pages_that_were_let_go_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    if not free.exists() or int(free.read_text()) < 12:
        pytest.skip("there are no huge pages")
    with hooked(tmp_path / "file", huge=12) as (target, (*_, large)):
        before_the_stop(monkeypatch, lambda: tell(target, "h"))
        assert taken(target, tmp_path / "core")[0] == 0
        assert set(Core(tmp_path / "core").read(large, 12 * HUGE)) == {0}
        lines = Path(f"/proc/{target.pid}/maps").read_text().splitlines()
        assert sum("hugepage" in line for line in lines) == 1  # it is not left in pieces


def test_pages_that_cannot_be_read_in_the_stop_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hooked(tmp_path / "file") as (target, (_, _, plain, _)):
        before_the_stop(monkeypatch, lambda: tell(target, "g"))
        status, manifest = taken(target, tmp_path / "core")
        assert set(Core(tmp_path / "core").read(plain, SIZE)) == {0}
        assert (status, manifest["unreadable"]) == (1, [[hex(plain), SIZE]])


def test_what_is_behind_a_file_that_was_cut_is_not_in_the_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hooked(tmp_path / "file") as (target, (changed, *_)):
        before_the_stop(monkeypatch, lambda: tell(target, "t"))
        taken(target, tmp_path / "core")
        with contextlib.suppress(LookupError):
            assert set(Core(tmp_path / "core").read(changed, SIZE)) == {0}


def test_what_was_written_over_a_file_meanwhile_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hooked(tmp_path / "file") as (target, (_, unchanged, *_)):
        before_the_stop(monkeypatch, lambda: tell(target, "n"))
        assert taken(target, tmp_path / "core", "--skip", "file")[0] == 0
        assert set(Core(tmp_path / "core").read(unchanged, SIZE)) == set(b"N")


@pytest.mark.parametrize("memory", [{"untouched": 256}, {"sparse": 64}])
def test_memory_without_pages_is_not_taken_for_written_to(tmp_path: Path, memory: dict[str, int]) -> None:
    with hooked(tmp_path / "file", **memory) as (target, _):
        process = taken(target, tmp_path / "core")[1]["process"]
    assert (process["mode"], process["why_not"]) == ("precopy", None)


def test_memory_that_another_one_watches_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would clear what the other one has to see."""
    with hooked(tmp_path / "file") as (target, _):
        ioctl = fcntl.ioctl

        def refused(descriptor: int, request: int, *argument: Any) -> int:
            if request == watching._REGISTER:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            result: int = ioctl(descriptor, request, *argument)
            return result

        monkeypatch.setattr(fcntl, "ioctl", refused)
        process = taken(target, tmp_path / "core")[1]["process"]
    assert process["mode"] != "precopy"
    assert "watch" in (process["why_not"] or "")


def test_a_guardian_that_was_killed_meanwhile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found: list[int] = []
    watch = Guardian.watch

    def watched(self: Guardian, pid: int) -> None:
        watch(self, pid)
        found.append(self._pid)

    monkeypatch.setattr(Guardian, "watch", watched)
    before_the_stop(monkeypatch, lambda: os.kill(found[0], signal.SIGKILL))
    with hooked(tmp_path / "file") as (target, _):
        status = cli.main(["process", str(target.pid), str(tmp_path / "core"), "--mode", "precopy"])
    assert status == 1
    assert "guardian was killed" in capfd.readouterr().err


@pytest.mark.parametrize("opened", ["os.open(path, os.O_RDWR | os.O_DIRECT)", "libc.syscall(425, 2, setup)"])
def test_what_is_written_to_past_its_page_tables_is_copied_by_fork(tmp_path: Path, opened: str) -> None:
    """By devices, for whatever is open with O_DIRECT, or by io_uring."""
    (tmp_path / "file").touch()
    program = (
        f"import ctypes, os, sys; path = {str(tmp_path / 'file')!r}; libc = ctypes.CDLL(None)\n"
        f"setup = ctypes.create_string_buffer(120)\ndone = {opened}\n"
        "print('ready' if done >= 0 else 'refused', flush=True); input()"
    )
    with begun([sys.executable, "-c", program]) as target:
        if target.line() != "ready":
            pytest.skip("this kernel does not do that")
        done = memdump(target.pid, tmp_path / "core")
    assert done.returncode == 0, done.stderr
    assert "is not copied while it runs: not only its own instructions may write to its memory" in done.stderr
    assert "fork mode" in done.stderr


def test_stopped_after_the_stop_it_tells_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written to before the stop is in it; shared memory, which comes last, is not."""
    changed = struct.pack("=Q", 7) * (PAGE // 8)
    program = (
        "import mmap, sys; own = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE); own.write(bytes(1 << 20))\n"
        f"shared = mmap.mmap(-1, {SHARED}); shared.write(b's' * len(shared)); import ctypes\n"
        "at = [ctypes.addressof(ctypes.c_char.from_buffer(one)) for one in (own, shared)]\n"
        "print(*map(hex, at), flush=True); sys.stdin.readline()\n"
        f"own[:{PAGE}] = {changed!r}; print('changed', flush=True); sys.stdin.readline()"
    )
    with begun([sys.executable, "-c", program]) as target:
        own, shared = (int(word, 16) for word in target.line().split())

        def change() -> None:
            assert target.process.stdin
            target.process.stdin.write("\n")
            target.process.stdin.flush()
            assert target.line() == "changed"

        before_the_stop(monkeypatch, change)
        finish: Any = precopy.Precopy.finish

        def interrupted(self: precopy.Precopy, *words: Any) -> Any:
            return finish(self, *words[:-1], lambda: "stopped by a test")

        monkeypatch.setattr(precopy.Precopy, "finish", interrupted)
        status, manifest = taken(target, tmp_path / "core")
    assert (status, manifest["complete"], manifest["stopped_by"]) == (1, False, "stopped by a test")
    core = Core(tmp_path / "core.part")
    assert core.read(own, PAGE) == changed
    missing = [(int(start, 16), size) for start, size in manifest["not_taken"]]
    assert not any(start <= own < start + size for start, size in missing)
    inside = [
        (max(start, shared), min(start + size, shared + (SHARED)))
        for start, size in missing
        if start < shared + (SHARED) and start + size > shared
    ]
    assert inside
    assert not any(any(core.read(start, end - start)) for start, end in inside)
    there = [(shared, shared), *inside, (shared + SHARED, shared + SHARED)]
    for (_, start), (end, _) in itertools.pairwise(there):
        assert set(core.read(start, end - start)) <= set(b"s")
