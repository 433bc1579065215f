"""Servers that are taken while they serve: nobody who asks them notices, and what is taken is whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memdump.process import members, proc
from tests.lab import cache
from tests.process import servers
from tests.process.cores import Core
from tests.process.debugger import gdb
from tests.process.targets import needs_gdb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.process.servers import Load, Nginx, PostgreSQL

pytestmark = pytest.mark.xdist_group("servers")
ALONE = 2.0
"""Seconds of the load without a dump."""
MARKED = "SELECT string_agg(md5(n::text), '') AS text FROM generate_series(1, 4) AS n"
"""Makes a text that stands in no statement."""


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    try:
        with servers.postgresql() as found:
            yield found
    except cache.NoLab as error:
        pytest.skip(f"PostgreSQL is not to be had: {error}")


@pytest.fixture
def nginx() -> Iterator[Nginx]:
    try:
        with servers.nginx() as found:
            yield found
    except cache.NoLab as error:
        pytest.skip(f"nginx is not to be had: {error}")


def take(out: Path, pids: Sequence[int], *options: str) -> list[dict]:  # type: ignore[type-arg]
    """Take some processes at one instant, and give the manifests, in the order of the processes."""
    out.mkdir()
    words = [sys.executable, "-m", "memdump", "process"]
    name = servers.status(pids[0], "Name")
    if len(pids) > 1 and sorted(pids) == sorted(
        filter(members.by_name(name), proc.all_pids())
    ):  # none of them are others'
        words += [str(out), "--all", name]
    else:
        words += [*map(str, pids), str(out)]
    done = subprocess.run([*words, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    manifests = [json.loads(path.read_text()) for path in out.glob("*.json")]
    assert sorted(one["process"]["pid"] for one in manifests) == sorted(pids)
    return sorted(manifests, key=lambda one: pids.index(one["process"]["pid"]))


def core_of(out: Path, pid: int) -> Path:
    (found,) = out.glob(f"*-{pid}-*.core")
    return found


def stack(program: Path, core: Path) -> str:
    # Of shared memory without a file, which the kernel's own cores list among the files too.
    shared = r"warning: Can't open file .* \(deleted\) during file-backed.*"
    return gdb(program, core, "bt -frame-info location", "info threads", tolerated=shared)


def taken_in_mode(mode: str, out: Path, pids: Sequence[int], *options: str, keep: bool = False) -> int:
    """Take some processes, all of them in that mode, and give their number."""
    for one in take(out, pids, *options):
        assert one["process"]["mode"] == mode, one["process"]
        assert not one["process"]["left_behind"]
    if not keep:
        shutil.rmtree(out)
    return len(pids)


def is_left_alone(server: int) -> None:
    """Nothing of memdump is left in a server: no child that is none of its own, no tracer."""
    pids = [server, *servers.children(server)]
    names = {servers.status(pid, "Name") for pid in pids}
    assert len(names) == 1, names
    for pid in pids:
        assert servers.status(pid, "TracerPid") == "0"
        assert servers.status(pid, "State")[0] in "SRD", servers.status(pid, "State")
        assert pid == server or not servers.children(pid)


def tell(name: str, alone: Load, taken: Load, dumps: int) -> None:
    print(f"\n{name} alone: {alone}\n{name} while it is taken {dumps} times: {taken}")


@needs_gdb
def test_postgresql_under_load(tmp_path: Path, postgresql: PostgreSQL) -> None:
    """Transactions go on while processes of the server are taken, and the accounts are right in the end."""
    found: list[Load] = []
    with postgresql.load("alone", found):
        time.sleep(ALONE)
    kept = tmp_path / "kept"
    dumps = 0
    with postgresql.load("fork", found):
        backend = postgresql.backend()
        for pids, options in (
            ([backend], []),
            ([postgresql.pid], ["--no-shared"]),
            (postgresql.everyone(), ["--shared-once", "--skip", "file"]),
            (postgresql.everyone(), ["--skip", "shared", "--skip", "file"]),
            ([backend], ["--skip", "file"]),
        ):
            dumps += taken_in_mode("fork", tmp_path / f"{dumps}", pids, *options)
        taken_in_mode("fork", kept, pair := [postgresql.pid, backend], keep=True)
        dumps += len(pair)
    with postgresql.load("freeze", found):
        backend = postgresql.backend()
        for mode in ("freeze", "live"):
            taken_in_mode(mode, tmp_path / mode, [backend], "--mode", mode, "--no-shared")
    alone, taken, stopped = found
    tell("PostgreSQL", alone, taken, dumps)
    print(f"PostgreSQL in modes freeze and live: {stopped}")
    assert [one.errors for one in found] == [0, 0, 0]
    # Each transaction adds one amount to an account, a teller and a branch, and writes it down.
    assert int(postgresql.query("SELECT count(*) FROM pgbench_history")) == sum(one.answered for one in found)
    sums = {
        postgresql.query(f"SELECT sum({column}) FROM pgbench_{table}")
        for table, column in (
            ("accounts", "abalance"),
            ("tellers", "tbalance"),
            ("branches", "bbalance"),
            ("history", "delta"),
        )
    }
    assert len(sums) == 1
    is_left_alone(postgresql.pid)
    assert "PANIC" not in postgresql.log()
    assert "terminated" not in postgresql.log()
    for pid in pair:
        assert "PostmasterMain" in stack(postgresql.binary, core_of(kept, pid))


def test_shared_buffers_are_taken_once_or_not_at_all(tmp_path: Path, postgresql: PostgreSQL) -> None:
    postgresql.query(f"CREATE TABLE marked AS {MARKED}")
    mark = postgresql.query("SELECT * FROM marked").encode()
    pids = postgresql.everyone()
    start, size = shared_buffers(postgresql.pid)
    place = [hex(start), size]
    once = take(tmp_path / "once", pids, "--shared-once", "--skip", "file")
    none = take(tmp_path / "none", pids, "--no-shared", "--skip", "file")
    assert [reasons(one, place) for one in once].count(set()) == 1
    holder = next(one["process"]["pid"] for one in once if not reasons(one, place))
    for one in once:
        pid = one["process"]["pid"]
        core = Core(core_of(tmp_path / "once", pid))
        assert reasons(one, place) == (set() if pid == holder else {"shared-once"})
        assert held(core, start, size) == (size if pid == holder else 0)
        assert (mark in core.data) == (pid == holder)
        assert (place in one["process"]["live"]) == (pid == holder)  # it is too large for the stop
    for one in none:
        core = Core(core_of(tmp_path / "none", one["process"]["pid"]))
        assert reasons(one, place) == {"shared"}
        assert held(core, start, size) == 0
        assert mark not in core.data
    is_left_alone(postgresql.pid)


def shared_buffers(pid: int) -> tuple[int, int]:
    """The largest mapping that is shared."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        place, permissions, *_ = line.split()
        start, end = (int(word, 16) for word in place.split("-"))
        found += [(end - start, start)] * permissions.endswith("s")
    size, start = max(found)
    assert size > 32 << 20
    return start, size


def reasons(manifest: dict, place: list[object]) -> set[str]:  # type: ignore[type-arg]
    """Why a mapping is not in a core."""
    return {one["reason"] for one in manifest["skipped"] if place in one["ranges"]}


def held(core: Core, start: int, size: int) -> int:
    """Bytes of a mapping that are in a core."""
    return sum(one.in_file for one in core.segments if start <= one.start < start + size)


def test_postgresql_shuts_down_in_order(postgresql: PostgreSQL) -> None:
    """After all that was done to it; the last test that has it."""
    assert postgresql.stop() == 0
    assert "database system is shut down" in postgresql.log()


@needs_gdb
def test_nginx_under_load(tmp_path: Path, nginx: Nginx) -> None:
    """Requests over connections that stay open are answered, each of them, and none is closed."""
    found: list[Load] = []
    with nginx.load(found):
        time.sleep(ALONE)
    dumps = 0
    kept = tmp_path / "kept"
    master, workers = nginx.process.pid, nginx.workers()
    with nginx.load(found):
        for number in range(2):
            for pids, options in (
                (workers[:1], []),
                (workers[1:], ["--no-shared"]),
                ([master], []),
                ([master, *workers], ["--skip", "file"]),
            ):
                last = (number, len(pids)) == (1, 3)
                out = kept if last else tmp_path / f"{dumps}"
                dumps += taken_in_mode("fork", out, pids, *options, keep=last)
    with nginx.load(found):
        for number in range(2):
            taken_in_mode("freeze", tmp_path / f"{number}", workers[:1], "--mode", "freeze")
    alone, taken, stopped = found
    tell("nginx", alone, taken, dumps)
    print(f"nginx in mode freeze: {stopped}")
    assert [one.errors for one in found] == [0, 0, 0]
    assert nginx.workers() == workers  # none has ended and was made anew
    is_left_alone(master)
    assert nginx.answers()
    assert not nginx.log()
    for pid in (master, *workers):
        assert "ngx_master_process_cycle" in stack(nginx.binary, core_of(kept, pid))
    assert nginx.stop() == 0
