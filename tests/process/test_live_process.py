"""What becomes of processes that have limits, are in containers or under supervision: in a living guest."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import live as lives
from tests.process import cores
from tests.process.targets import built, living, needs_gcc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.live import Live

ROOM = "/lab/out/process"
CGROUPS = "/sys/fs/cgroup"
SLOTS = 256
"""Of the table of `restless`."""
ID = "0123456789abcdef" * 4
OTHER = "0123456789ab" + "f" * 52
"""It begins as the other one does."""
MEMDUMP = lives.MEMDUMP.replace("PYTHONDONTWRITEBYTECODE=1", "PYTHONPYCACHEPREFIX=/lab/out/compiled")
"""It runs often here, and to compile it takes longer than all that it does."""
READ = """
import contextlib, pathlib, sys, cores
with contextlib.suppress(LookupError):
    found = cores.Core(pathlib.Path(sys.argv[1])).read(int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.buffer.write(found)
"""
WITH_MOUNT = "unshare -m sh -c 'mount {} && exec {{command}}'"
"""Has the command find nothing out beforehand, so that it learns it from the kernel."""
HIDDEN_CGROUPS = WITH_MOUNT.format(f"-t tmpfs none {CGROUPS}")
HIDDEN_COMMITMENT = WITH_MOUNT.format("--bind /dev/null /proc/sys/vm/overcommit_memory")


class Target:
    """A program in the lab: `living` with some words."""

    def __init__(self, lab: Lab, folder: str, started: int) -> None:
        self.folder = folder
        self.started = started
        """What was started: the program, or what it was started by."""
        self.pid = started
        self._lab = lab

    @property
    def told(self) -> dict[str, int]:
        """Its addresses."""
        told: dict[str, int] = json.loads(self._lab.live.get(f"{self.folder}/told"))
        return told

    def look(self, pid: int | None = None) -> dict[str, Any]:
        """How it is: whether it counts, its threads' tracers and states, and its children."""
        command = f"python3 {ROOM}/living.py look {self.folder} {pid or self.pid}"
        found: dict[str, Any] = json.loads(self._lab.live.run(command).stdout)
        return found

    def is_unharmed(self, tracer: int = 0, children: int = 0) -> None:
        """It counts, is not traced by memdump, and has no copy left."""
        found = self.look()
        assert found["counts"], found
        assert set(found["tracers"]) == {str(tracer)}
        assert set(found["states"]) <= {"R", "S"}
        assert len(found["children"]) == children

    def has_its_pattern_in(self, core: str) -> None:
        """The core holds what the program keeps in its memory."""
        pattern = self._lab.memory(core, self.told["pattern"], living.SIZE)
        assert pattern == struct.pack(f"<{living.SIZE // 8}Q", *range(0, living.SIZE, 8))


class Lab:
    """The lab, and what is to be undone in it."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.undo: list[str] = []
        """Commands, the last one first."""
        self._count = 0

    def begin(self, *words: str, cgroup: str = "", by: str = "python3", user: str = "root") -> Target:
        """Start a program, in a cgroup perhaps, and wait until it runs."""
        self._count += 1
        folder = f"{ROOM}/{self._count}"
        enter = f"echo 0 > {CGROUPS}/{cgroup}/cgroup.procs && " if cgroup else ""
        # It is in a session of its own, so that all that it starts ends with it.
        started = self.live.run(
            f"mkdir -m 777 {folder}; ({enter} exec setsid {by} {ROOM}/living.py {folder} {' '.join(words)}"
            f" < /dev/null > {folder}/said 2>&1) & pid=$!; echo $pid;"
            f" until test -e {folder}/told; do kill -0 $pid || {{ cat {folder}/said >&2; exit 1; }};"
            " sleep 0.1; done",
            user,
        )
        pid = int(started.stdout)
        self.undo.append(f"pkill -KILL -s {pid}")
        return Target(self, folder, pid)

    def cgroup(self, name: str, *settings: str) -> str:
        """Make a cgroup, with ``file=value`` set."""
        self.live.run(
            f"mkdir -p {CGROUPS}/{name}"
            + "".join(f" && echo {v} > {CGROUPS}/{name}/{k}" for k, v in (s.split("=") for s in settings))
        )
        self.undo.append(f"for try in 1 2 3 4 5 6 7 8 9; do rmdir {CGROUPS}/{name} && break; sleep 0.2; done")
        return name

    def set(self, path: str, value: str) -> None:
        """Set something of the system's, and what it was again afterwards."""
        before = self.live.run(f"cat {path}; echo {value} > {path}").stdout.decode().strip()
        self.undo.append(f"echo {before} > {path}")

    def take(
        self, *words: object, status: int = 0, user: str = "root", how: str = "{command}", out: str = ""
    ) -> str:
        """Run memdump process; gives what it says."""
        command = f"{MEMDUMP} process {' '.join(map(str, words))} {out or ROOM + '/a.core'}"
        done = self.live.run(how.format(command=command), user, check=False)
        said = done.stderr.decode()
        assert done.returncode == status, said
        assert "Traceback" not in said
        return said

    def manifest(self, name: str = "a.core") -> Any:
        """What memdump says of a core."""
        return json.loads(self.live.get(f"{ROOM}/{name}.json"))

    def memory(self, core: str, address: int, size: int) -> bytes:
        """Read memory in a core; nothing where there is none.  It is done there: cores are long to send."""
        return self.live.run(
            f"PYTHONPATH={ROOM} PYTHONDONTWRITEBYTECODE=1 python3 -c '{READ}' {ROOM}/{core} {address} {size}"
        ).stdout


@pytest.fixture
def lab(live: Live) -> Iterator[Lab]:
    live.run(f"rm -rf {ROOM} && mkdir -m 777 {ROOM} && echo +pids +memory > {CGROUPS}/cgroup.subtree_control")
    live.put(f"{ROOM}/living.py", Path(living.__file__).read_bytes())
    live.put(f"{ROOM}/cores.py", Path(cores.__file__).read_bytes())
    found = Lab(live)
    try:
        yield found
    finally:
        live.run("; ".join([*reversed(found.undo), f"rm -rf {ROOM}"]), check=False)


def stood_because(lab: Lab, target: Target, reason: str, said: str, *, foreseen: bool = True) -> None:
    """It stood while it was read, that was said with the reason, and it runs on."""
    tense = "stands still while it is" if foreseen else "stood still while it was"
    assert f"process {target.pid} {tense} read: {reason}\n" in said
    process = lab.manifest()["process"]
    assert (process["mode"], process["why_not"], process["left_behind"]) == ("freeze", reason, None)
    target.is_unharmed()
    target.has_its_pattern_in("a.core")


# Containers.


def test_all_of_a_container_is_taken_at_one_instant_and_nothing_else(lab: Lab) -> None:
    name = "kubepods-burstable.slice/cri-containerd-{id}.scope"
    lab.cgroup(str(Path(name).parent))
    inside = lab.cgroup(name.format(id=ID))
    monitor = lab.cgroup(f"libpod-conmon-{ID}.scope")
    outside = [
        lab.begin("plain", cgroup=monitor),
        lab.begin("plain", cgroup=lab.cgroup(name.format(id=OTHER))),
        lab.begin("plain"),
    ]
    members = lab.begin("watch", cgroup=inside)
    # A container without an init has zombies, of which nothing can be taken, and need not be.
    lab.begin("zombie", cgroup=inside)
    running = processes(lab, inside)
    assert len(running) == living.MEMBERS + 1

    said = lab.take("--container", ID[:13], "--skip file", out=ROOM)
    manifests = [lab.manifest(name[: -len(".json")]) for name in cores_of(lab, ".core.json")]
    assert {one["process"]["pid"] for one in manifests} == running, said
    assert {one["process"]["mode"] for one in manifests} == {"fork"}, said
    at = members.told["watch"]
    found = [lab.memory(core, at, living.WATCH.size) for core in cores_of(lab, ".core")]
    watched = sorted(living.WATCH.unpack(one) for one in found if one)
    print(f"counted and seen: {watched}")
    assert [place for place, *_ in watched] == list(range(living.MEMBERS))
    counted = [count for _, count, *_ in watched]
    assert min(counted) > 0
    # Whoever was taken later than another one would have seen it count on.
    for _, _, *seen in watched:
        assert all(one <= other for one, other in zip(seen, counted, strict=True))
    for target in outside:
        target.is_unharmed()
    members.is_unharmed(children=living.MEMBERS - 1)
    assert processes(lab, inside) == running


@needs_gcc
def test_all_of_a_container_whose_processes_come_and_go(lab: Lab) -> None:
    """Each is in a table while it lives; the first one's core has the table of when all stood."""
    inside = lab.cgroup(f"docker-{ID}.scope")
    lab.live.put(f"{ROOM}/restless", built("restless", "-static").read_bytes())
    started = lab.live.run(
        f"chmod 755 {ROOM}/restless; (echo 0 > {CGROUPS}/{inside}/cgroup.procs && exec {ROOM}/restless fork"
        f" < /dev/null > {ROOM}/told 2>&1) & echo $!; until test -s {ROOM}/told; do sleep 0.1; done"
    )
    first = int(started.stdout)
    # Nobody may wait for it there, and then it is a zombie from then on.
    lab.undo.append(f"kill {first}; while grep -q '^State:.[^Z]' /proc/{first}/status; do sleep 0.1; done")
    table = int(lab.live.get(f"{ROOM}/told").split()[1], 16)
    for _ in range(3):
        said = lab.take("--container", ID, out=ROOM)
        taken = [lab.manifest(name[: -len(".json")])["process"] for name in cores_of(lab, ".core.json")]
        pids = {one["pid"] for one in taken}
        assert all(set(one["together"]["pids"]) == pids for one in taken), said
        (core,) = (name for name in cores_of(lab, ".core") if f"-{first}-" in name)
        _, *there = struct.unpack(f"<{1 + SLOTS}i", lab.memory(core, table, 4 + 4 * SLOTS))
        assert {first} <= {pid for pid in there if pid} <= pids
        lab.live.run(f"rm {ROOM}/*.core*")


def processes(lab: Lab, cgroup: str) -> set[int]:
    """The processes in a cgroup, without zombies."""
    return set(map(int, lab.live.run(f"cat {CGROUPS}/{cgroup}/cgroup.procs").stdout.split()))


def cores_of(lab: Lab, suffix: str) -> list[str]:
    """The names of what memdump has written into the folder."""
    names = lab.live.run(f"ls {ROOM}").stdout.decode().split()
    return [name for name in names if name.endswith(suffix)]


def test_a_container_that_is_not_clear_is_refused_in_one_line(lab: Lab) -> None:
    one, other = (lab.cgroup(f"docker-{known}.scope") for known in (ID, OTHER))
    targets = [lab.begin("plain", cgroup=cgroup) for cgroup in (one, other)]
    unknown = lab.take("--container", "f" * 64, status=2)
    assert unknown.count("\n") == 1
    assert f"there is no process in a cgroup called '{'f' * 64}'" in unknown
    for word in (ID[:12], "scope"):
        said = lab.take("--container", word, status=2)
        assert said.count("\n") == 1
        assert "no process in a cgroup" in said if word == "scope" else f"/{one}, /{other}" in said
    assert not cores_of(lab, ".core")
    lab.take("--container", ID[:13])
    assert lab.manifest()["process"]["pid"] == targets[0].pid
    for target in targets:
        target.is_unharmed()


def test_a_container_that_has_room_for_one_copy_is_not_filled_with_several(lab: Lab) -> None:
    inside = lab.cgroup(f"docker-{ID}.scope", "pids.max=5")
    members = lab.begin("watch", cgroup=inside)
    alone = lab.take(members.pid)
    assert "fork mode" in alone
    lab.live.run(f"mkdir {ROOM}/all")
    said = lab.take("--container", ID, "--skip file", out=f"{ROOM}/all")
    assert said.count("stands still while it is read: its cgroup may not have another process") == 3
    members.is_unharmed(children=living.MEMBERS - 1)


# Limits.


def test_no_room_for_processes_in_the_cgroup(lab: Lab) -> None:
    target = lab.begin("plain", cgroup=lab.cgroup("few"))
    lab.set(f"{CGROUPS}/few/pids.max", "1")
    said = lab.take(target.pid)
    stood_because(lab, target, "its cgroup may not have another process (pids.max)", said)
    assert lab.live.run(f"cat {CGROUPS}/few/pids.events").stdout == b"max 0\n"  # nothing was refused to it


def test_no_room_for_processes_of_the_user(lab: Lab) -> None:
    target = lab.begin("user=1000", "nproc=2")  # the copy would be the second, and the last one
    said = lab.take(target.pid)
    stood_because(lab, target, "it may not have another process (RLIMIT_NPROC)", said)


@contextlib.contextmanager
def little_to_promise(lab: Lab) -> Iterator[None]:
    """The system promises no more memory than a little beyond what it has promised."""
    settings = "/proc/sys/vm/overcommit"
    committed = "grep Committed_AS /proc/meminfo | tr -dc 0-9"
    lab.live.run(f"echo $(($({committed}) + 130000)) > {settings}_kbytes && echo 2 > {settings}_memory")
    try:
        yield
    finally:
        lab.live.run(f"echo 0 > {settings}_memory && echo 50 > {settings}_ratio")


@pytest.mark.parametrize("foreseen", [True, False])
def test_memory_is_not_committed_twice(lab: Lab, foreseen: bool) -> None:
    target = lab.begin("reserve=170")
    with little_to_promise(lab):
        said = lab.take(target.pid, how="{command}" if foreseen else HIDDEN_COMMITMENT)
    stood_because(
        lab,
        target,
        f"the system does not commit its memory twice{' (vm.overcommit_memory is 2)' * foreseen}",
        said,
        foreseen=foreseen,
    )


def test_what_may_not_be_copied_is_copied_while_it_runs(lab: Lab) -> None:
    """Another user's, in a cgroup without room for another process, where memory is not promised twice."""
    target = lab.begin("user=1000", "reserve=170", cgroup=lab.cgroup("few"))
    lab.set(f"{CGROUPS}/few/pids.max", "1")
    with little_to_promise(lab):
        said = lab.take(target.pid, "--mode precopy")
    assert "precopy mode" in said
    process = lab.manifest()["process"]
    assert (process["mode"], process["why_not"], process["live"]) == ("precopy", None, [])
    target.is_unharmed()
    target.has_its_pattern_in("a.core")
    assert lab.live.run(f"cat {CGROUPS}/few/pids.events").stdout == b"max 0\n"


@pytest.mark.parametrize("mode", ["fork", "precopy"])
def test_memory_that_is_swapped_out(lab: Lab, mode: str) -> None:
    """What was not touched comes from the disk, and what is written to meanwhile comes back from there."""
    swap, size, page = "/lab/out/swap", 8 << 20, living.PAGE
    lab.live.run(f"dd if=/dev/zero of={swap} bs=1M count=64 status=none && mkswap -q {swap}; swapon {swap}")
    lab.undo.append(f"swapoff {swap}; rm {swap}")
    cgroup = lab.cgroup("swapped")
    target = lab.begin("rest=8", "rewrite=2", cgroup=cgroup)
    # It gives an error where it could not have as much as that.
    lab.live.run(f"echo 16M > {CGROUPS}/{cgroup}/memory.reclaim", check=False)
    status = lab.live.run(f"cat /proc/{target.pid}/status").stdout.decode()
    swapped = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmSwap:")))
    assert swapped > 4 << 10, "hardly anything is swapped out"
    lab.take(target.pid, "--mode", mode)
    process = lab.manifest()["process"]
    assert (process["mode"], process["live"]) == (mode, [])
    target.has_its_pattern_in("a.core")
    rested = lab.memory("a.core", target.told["rested"], size)
    assert [struct.unpack_from("<Q", rested, at)[0] for at in range(0, size, page)] == [*range(0, size, page)]
    # It goes through the pages from the first to the last, so at one instant one place alone differs.
    counts = lab.memory("a.core", target.told["filled"], 2 << 20)[::page]
    assert sum(one != other for one, other in itertools.pairwise(counts)) <= 1
    target.is_unharmed()


def test_the_kernel_refuses_a_process_that_was_not_foreseen(lab: Lab) -> None:
    target = lab.begin("plain", cgroup=lab.cgroup("few", "pids.max=1"))
    said = lab.take(target.pid, how=HIDDEN_CGROUPS)
    reason = "it may not have another process (RLIMIT_NPROC or the pids limit of its cgroup)"
    stood_because(lab, target, reason, said, foreseen=False)


def limit_memory(lab: Lab, name: str, more: int) -> None:
    """Leave a cgroup that many MiB more than it has."""
    path = f"{CGROUPS}/{name}"
    lab.live.run(f"echo $(($(cat {path}/memory.current) + {more << 20})) > {path}/memory.max")


def test_little_memory_is_left_in_the_cgroup(lab: Lab) -> None:
    target = lab.begin("fill=60", cgroup=lab.cgroup("narrow"))
    limit_memory(lab, "narrow", 45)
    lab.take(target.pid)
    assert lab.manifest()["process"]["mode"] == "fork"
    target.is_unharmed()
    lab.live.run(f"rm {ROOM}/a.core*")
    limit_memory(lab, "narrow", 8)
    said = lab.take(target.pid)
    assert f"process {target.pid} stands still while it is read: its cgroup has little memory left (" in said
    assert "MiB, memory.max)" in said
    assert lab.manifest()["process"]["mode"] == "freeze"
    target.is_unharmed()
    target.has_its_pattern_in("a.core")


def test_where_all_are_killed_together_there_must_be_room_for_all_of_the_copy(lab: Lab) -> None:
    """In a cgroup with memory.oom.group a copy that is killed for memory takes all the others with it."""
    target = lab.begin("fill=60", cgroup=lab.cgroup("narrow", "memory.oom.group=1"))
    limit_memory(lab, "narrow", 45)
    said = lab.take(target.pid)
    assert "its cgroup has little memory left (" in said
    assert lab.manifest()["process"]["mode"] == "freeze"
    target.is_unharmed()


def test_a_copy_is_the_first_to_be_killed_for_memory(lab: Lab) -> None:
    """Memory gets short while it is read, through a pipe that is full.

    What the kernel does after that is its own affair: while it frees the copy's last pages it may look for
    another one to kill.
    """
    target = lab.begin("rewrite=40", cgroup=lab.cgroup("narrow"))
    limit_memory(lab, "narrow", 10)
    before = len(killed_for_memory(lab))
    killed = f"grep -q '^oom_kill [1-9]' {CGROUPS}/narrow/memory.events"
    said = lab.take(
        target.pid,
        status=1,
        how=f"set -o pipefail; {HIDDEN_CGROUPS} | (until {killed}; do sleep 0.1; done; cat > {ROOM}/a.core)",
        out="-",
    )
    assert "the process is gone, or its copy was killed because memory is short" in said
    victims = killed_for_memory(lab)[before:]
    assert victims[0] != target.pid
    if target.pid not in victims:
        target.is_unharmed()


def killed_for_memory(lab: Lab) -> list[int]:
    """The processes that the kernel killed, in order."""
    log = lab.live.run("dmesg").stdout.decode()
    return [int(pid) for pid in re.findall(r"Killed process (\d+)", log)]


# A full disk.


def test_a_disk_that_is_full_before_the_core_is_whole(lab: Lab) -> None:
    """There is room for what the program uses, but not for all that its core has; one truth is told of it."""
    target = lab.begin("fill=8")
    lab.live.run(f"mkdir {ROOM}/full && mount -t tmpfs -o size=24m none {ROOM}/full")
    lab.undo.append(f"umount {ROOM}/full")
    out = f"{ROOM}/full/a.core"
    said = lab.take(target.pid, out=out, status=1)
    assert f"{out}: no room left on the disk; what was written stands in {out}.part\n" in said
    assert said.count("no room") == 1
    names = set(lab.live.run(f"ls {ROOM}/full").stdout.decode().split())
    assert names == {"a.core.part", "a.core.json", "a.core.custody.jsonl"}
    manifest = lab.manifest("full/a.core")
    size = int(lab.live.run(f"stat -c %s {out}.part").stdout)
    assert (manifest["complete"], manifest["stream"]["size"], manifest["written"]["size"]) == (
        False,
        size,
        size,
    )
    assert f"{out}: no room left on the disk; what was written stands in" in manifest["stopped_by"]
    missing = sum(length for _, length in manifest["not_taken"])
    whole = sum(length for _, length in manifest["ranges"])
    front = size - (whole - missing)
    assert 0 < front < 1 << 20  # headers and notes
    assert manifest["process"]["left_behind"] is None
    target.is_unharmed()


# Supervision.


@pytest.mark.parametrize("word", ["filtered", "thread_filtered"])
def test_a_filter_that_kills_for_copies(lab: Lab, word: str) -> None:
    target = lab.begin(word)
    said = lab.take(target.pid)
    reason = "it has a seccomp filter, which may kill it for making a copy of itself"
    stood_because(lab, target, reason, said)


# Frozen cgroups.


def freeze(lab: Lab, name: str, is_frozen: bool) -> None:
    path = f"{CGROUPS}/{name}"
    lab.live.run(
        f"echo {int(is_frozen)} > {path}/cgroup.freeze;"
        f" until grep -q 'frozen {int(is_frozen)}' {path}/cgroup.events; do sleep 0.05; done"
    )


@pytest.mark.parametrize("foreseen", [True, False])
@pytest.mark.parametrize("inner", ["", "/inner"])
def test_what_is_frozen_is_taken_and_stays_frozen(lab: Lab, foreseen: bool, inner: str) -> None:
    """A paused container: its own cgroup is frozen, or one around it."""
    cgroup = lab.cgroup("paused")
    target = lab.begin("plain", cgroup=lab.cgroup(cgroup + inner))
    freeze(lab, cgroup, True)
    how = f"timeout 60 {'{command}' if foreseen else HIDDEN_CGROUPS}"
    said = lab.take(target.pid, how=how)
    assert not target.look()["counts"]
    freeze(lab, cgroup, False)
    reason = "it is stopped already: its cgroup is frozen" if foreseen else "its cgroup was frozen meanwhile"
    stood_because(lab, target, reason, said, foreseen=foreseen)


def test_what_is_frozen_while_it_is_read(lab: Lab) -> None:
    """Its copy ends, and memdump too; nobody can have a frozen process wait for a copy, and that is said."""
    cgroup = lab.cgroup("paused")
    target = lab.begin("plain", cgroup=cgroup)
    path = f"{CGROUPS}/{cgroup}"
    said = lab.take(
        target.pid,
        how=f"set -o pipefail; timeout 60 {{command}}"
        f" | (head -c 1; echo 1 > {path}/cgroup.freeze; cat) > {ROOM}/a.core",
        out="-",
    )
    assert "remains as a zombie until it ends: its cgroup is frozen" in said
    freeze(lab, cgroup, False)
    target.is_unharmed(children=1)
    target.has_its_pattern_in("a.core")


def test_what_the_first_version_of_cgroups_has_frozen_is_refused(lab: Lab) -> None:
    path = f"{CGROUPS}/{lab.cgroup('freezer')}"
    lab.live.run(f"mount -t cgroup -o freezer none {path} && mkdir {path}/paused")
    lab.undo.append(f"umount {path}")
    target = lab.begin("plain", cgroup="freezer/paused")
    lab.undo.append(f"echo THAWED > {path}/paused/freezer.state; sleep 0.1")
    lab.live.run(
        f"echo FROZEN > {path}/paused/freezer.state;"
        f" until grep -q FROZEN {path}/paused/freezer.state; do sleep 0.05; done"
    )
    said = lab.take(target.pid, how="timeout 60 {command}", status=1)
    assert f"process {target.pid} is frozen by its cgroup and cannot stop: thaw that first\n" in said
    assert not cores_of(lab, ".core")
    lab.live.run(f"echo THAWED > {path}/paused/freezer.state")
    target.is_unharmed()


TRACE = """
import ctypes, signal, sys
assert not ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), None, None)  # PTRACE_SEIZE
print("traces", flush=True)
signal.pause()
"""


def test_another_tracer(lab: Lab) -> None:
    target = lab.begin("plain")
    lab.live.put(f"{ROOM}/trace.py", TRACE.encode())
    tracer = int(
        lab.live.run(
            f"setsid python3 {ROOM}/trace.py {target.pid} > {ROOM}/traces 2>&1 < /dev/null & echo $!;"
            f" until grep -q traces {ROOM}/traces; do sleep 0.1; done"
        ).stdout
    )
    lab.undo.append(f"kill -KILL {tracer}")
    said = lab.take(target.pid, status=4)
    assert said.count("\n") == 1
    assert f"process {target.pid} is traced by process {tracer} (python3) already" in said
    assert not cores_of(lab, ".core")
    target.is_unharmed(tracer)


def test_a_set_user_id_program_is_roots_only(lab: Lab) -> None:
    lab.live.run(f"cp $(readlink -f /usr/bin/python3) {ROOM}/setuid && chmod 4755 {ROOM}/setuid")
    target = lab.begin("plain", by=f"{ROOM}/setuid", user="analyst")
    said = lab.take(target.pid, status=4, user="analyst")
    assert said.count("\n") == 1
    assert "started set-user-id" in said
    assert "CAP_SYS_PTRACE" in said
    assert not cores_of(lab, ".core")
    target.is_unharmed()
    lab.take(target.pid)
    assert lab.manifest()["process"]["mode"] == "fork"
    target.is_unharmed()
    target.has_its_pattern_in("a.core")


def test_memory_that_is_provided_by_another_program(lab: Lab) -> None:
    """What is not there yet is not empty, and nobody waits for a program that never provides it."""
    target = lab.begin("provided")
    said = lab.take(target.pid, how="timeout 60 {command}", status=1)
    stood_because(lab, target, "some of its memory is provided by another program (userfaultfd)", said)
    there = living.PROVIDED // 2
    missing = target.told["provided"] + there
    assert f"{there:,} bytes could not be read and stand as zeros in the core: {missing:#x}-" in said
    content = lab.memory("a.core", target.told["provided"], living.PROVIDED)
    assert content == b"here" * (there // 4) + bytes(there)


@pytest.mark.parametrize("first", [True, False])
def test_the_copy_is_reaped_in_a_namespace_of_pids(lab: Lab, first: bool) -> None:
    """As the first process there, whose id is 1, and as another one."""
    shell = "" if first else "sh -c 'python3 \"$@\"; true' sh"
    target = lab.begin("plain", by=f"unshare -p -f {shell or 'python3'}")
    pid = target.started
    for _ in range(1 if first else 2):
        pid = int(lab.live.run(f"cat /proc/{pid}/task/{pid}/children").stdout)
    target.pid = pid
    ids = lab.live.run(f"sed -n 's/^NSpid:.//p' /proc/{pid}/status").stdout.split()
    assert (len(ids), ids[-1]) == (2, b"1" if first else b"2")
    lab.take(pid)
    process = lab.manifest()["process"]
    assert (process["mode"], process["left_behind"]) == ("fork", None)
    target.is_unharmed()
    target.has_its_pattern_in("a.core")
