"""What goes on in a guest: everything the tables must tell, set up to stand still."""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from tests.lab.inside import actors, files, libc, shell, sockets

CONTAINER = "f0e1d2c3b4a5968778695a4b3c2d1e0ff0e1d2c3b4a5968778695a4b3c2d1e0f"
MODULES = ("qemu_fw_cfg", "loop", "dummy", "veth", "8021q", "bridge", "tun", "nf_tables", "af_packet", "ipv6")
LOG_MARKERS = (
    b"<6>memdump-lab: a plain line",
    b"<3>memdump-lab: an error",
    b"<7>memdump-lab: debug",
    b"<12>memdump-lab: user facility, warning",
    b"<5>memdump-lab: caf\xc3\xa9 \xff\xfe \x1b]0;owned\x07 \t tab",
    b"<6>memdump-lab: two\nlines",
    b"<6>memdump-lab: long " + b"0123456789" * 80,
)
TYPED = [
    "whoami",
    "echo 'quoted  spaces' \"and $HOME\"",
    "cd /run/loot",
    "ls -la | head -3",
    "whoami",
    "# 1600000000 looks like a time but is a comment",
    "echo pass:日本語",
    "for i in 1 2; do\necho $i\ndone",
    "echo " + "long" * 300,
    "history -d 1",
]
HIDDEN = [
    "shopt -s lithist",
    "for i in 1 2; do\necho $i\ndone",
    "echo not-utf8-\udcff\udcfe",
    f"rm {files.TMPFS}/.updater",
]
"""Typed at a bash that is called otherwise."""
Truth = dict[str, Any]


def run() -> Truth:
    """Set everything up; the answer says which process plays which role and what only the doer can know."""
    libc.sethostname(b"victim")
    os.environ.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    load_modules(*MODULES)
    files.mount_all()
    left = files.write_all()
    sockets.configure_interfaces()
    Path("/proc/sys/kernel/tainted").write_text("64")  # by whoever has a user who asked for it
    for line in LOG_MARKERS:
        _say_in_kernel_log(line)
    roles = [*_names(), *_memory(), *_files(), *_network(), *_confined(), *_states()]
    shells = _shells()
    gone = files.delete_some()
    return {
        "roles": {role["role"]: role["pid"] for role in [*roles, *shells]},
        "history": {str(role["pid"]): role["history"] for role in shells},
        "paths": left,
        "deleted_files": gone,
        "log_markers": [os.fsdecode(line) for line in LOG_MARKERS],
        "container": CONTAINER,
    }


def load_modules(*names: str) -> None:
    """Load what of these is a module of this kernel, and not built in."""
    subprocess.run(["modprobe", "--all", "--quiet", *names], check=False)


def last_moment() -> None:
    """What does not last: done just before the truth is written down."""
    sockets.tcp_time_wait()


def _say_in_kernel_log(line: bytes) -> None:
    with open("/dev/kmsg", "wb", buffering=0) as log:
        log.write(line + b"\n")


def _names() -> list[actors.Actor]:
    sleep = "/usr/bin/sleep"
    hidden = "/dev/shm/.kw"
    shutil.copy(sleep, hidden)
    long_line = [b"sleep", b"100000", *(b"0.%d" % number for number in range(1500))]
    environment = {
        b"SECRET_TOKEN": b"hunter2",
        b"EMPTY": b"",
        b"NOT_UTF8": b"\xff\xfe",
        b"ESCAPE": b"\x1b]0;owned\x07",
        b"LINES": b"one\ntwo",
        b"LONG": b"v" * 6000,
    }
    started = [
        actors.start("spaces", actors.become, sleep, [b"name with  spaces", b"100000"], name=b"name with sp"),
        actors.start("look_alike", actors.become, hidden, [b"[kworker/0:1]", b"100000"]),
        actors.start("escapes", _stand, name=b"\x1b]0;evil\x07\xff\n)"),
        actors.start("kernel_name", _stand, name=b"kworker/0:1"),
        actors.start("no_arguments", libc.set_command_line, b"", name=b""),
        actors.start("title", _title),
        actors.start("long_line", actors.become, sleep, long_line),
        actors.start("environment", actors.become, sleep, [b"sleep", b"100000"], environment),
        actors.start("no_environment", actors.become, sleep, [b"sleep", b"100000"], {}),
        actors.start("nobody", _as, 65534),
        actors.start("analyst", _as, 1000, None, (33, 1000)),
        actors.start("effective", _as, 1000, 33),
        actors.start("memfd", _from_memfd, sleep),
        actors.start("threads", _threads, name=b"pool"),
    ]
    os.unlink(hidden)
    return started


def _stand() -> None:
    """Do nothing, which is what most actors do when they are set up."""


def _title() -> None:
    """Give oneself a title, as setproctitle(3) does: it runs on into the environment."""
    begin, end = libc.arguments()
    title = b"server: worker process".ljust(end - begin + 7, b"!") + b"\0"
    ctypes.memmove(begin, title, len(title))


def _as(uid: int, effective: int | None = None, groups: tuple[int, ...] = ()) -> None:
    actors.user(uid, effective, groups)


def _from_memfd(program: str) -> None:
    descriptor = os.memfd_create("payload", 0)
    os.write(descriptor, Path(program).read_bytes())
    actors.become(f"/proc/self/fd/{descriptor}", [b"updater", b"100000"])


def _threads() -> list[threading.Thread]:
    def named(name: bytes) -> None:
        libc.set_name(name)
        named_count.release()
        forever.wait()

    forever = threading.Event()
    named_count = threading.Semaphore(0)
    names = (b"worker-1", b"worker two", b"\xffworker", b"fifteen-bytes-x")
    pool = [threading.Thread(target=named, args=(name,), daemon=True) for name in names]
    for thread in pool:
        thread.start()
        named_count.acquire()
    return pool


def _memory() -> list[actors.Actor]:
    return [actors.start("mappings", _mappings)]


def _mappings() -> list[Any]:
    """Mappings of every kind: injected code, shared, of files that are gone, unreadable, System V."""
    code = mmap.mmap(
        -1, 3 * 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE | 0x20
    )
    code.write(b"\xcc" * 5000)
    shared = mmap.mmap(-1, 16 * 4096)
    shared[: 2 * 4096] = b"s" * (2 * 4096)
    none = mmap.mmap(-1, 1 << 20, prot=0, flags=mmap.MAP_PRIVATE | 0x20)
    kept: list[Any] = [code, shared, none, libc.shared_memory(8192)]
    for path, gone in ((f"{files.TMPFS}/mapped", False), (f"{files.TMPFS}/mapped and gone", True)):
        with open(path, "w+b") as file:
            file.write(b"m" * 24000)
            file.flush()
            mapping = mmap.mmap(file.fileno(), 16384, offset=4096 if gone else 0)
            mapping[0], mapping[9000] = 1, 2
        kept.append(mapping)
        if gone:
            os.unlink(path)
    return kept


def _files() -> list[actors.Actor]:
    return [actors.start("open_files", _open_files)]


def _open_files() -> list[Any]:
    """Descriptors of every kind."""
    kept: list[Any] = []
    for base in (files.TMPFS, files.EXT4):
        path = f"{base}/open and deleted"
        deleted = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(deleted, b"gone, but here\n" * 1000)
        os.lseek(deleted, 1234, os.SEEK_SET)
        os.unlink(path)
        kept.append(deleted)
        reading = os.open(f"{base}/read", os.O_RDONLY | os.O_CREAT, 0o444)
        kept.append(reading)
    memory = os.memfd_create("stage2", 0)
    os.write(memory, b"\x7fELF" + b"p" * 5000)
    kept += [memory, *os.pipe(), *_anonymous()]
    kept.append(os.open(files.TMPFS, os.O_RDONLY | os.O_DIRECTORY))
    kept.append(os.open("/etc/passwd", os.O_PATH))
    kept.append(os.open("/proc/self/status", os.O_RDONLY))
    kept.append(os.open("/dev/null", os.O_RDWR))
    return kept


def _anonymous() -> list[Any]:
    """eventfd, epoll, timerfd, signalfd, inotify, pidfd: inodes without a name of their own."""
    c = ctypes.CDLL(None)
    watcher = c.inotify_init()
    c.inotify_add_watch(watcher, files.TMPFS.encode(), 0x2)
    mask = (ctypes.c_ulong * 16)(1 << (signal.SIGUSR1 - 1))
    epoll = select.epoll()
    event = os.eventfd(3)
    epoll.register(event, select.EPOLLIN)
    return [
        epoll,
        event,
        watcher,
        c.timerfd_create(1, 0),
        c.signalfd(-1, mask, 0),
        os.pidfd_open(os.getpid()),
    ]


def _network() -> list[actors.Actor]:
    return [
        actors.start("tcp", sockets.tcp),
        actors.start("tcp_half_closed", sockets.tcp_half_closed),
        actors.start("udp", sockets.udp),
        actors.start("raw_and_packet", sockets.raw_and_packet),
        actors.start("unix", sockets.unix, files.TMPFS),
        actors.start("passed_on", _shares_sockets),
    ]


def _shares_sockets() -> list[Any]:
    """One socket, two owners: a child inherits the descriptor."""
    listener = socket.create_server(("127.0.0.1", 3333))
    if os.fork() == 0:
        signal.pause()
    return [listener]


def _confined() -> list[actors.Actor]:
    group = Path(f"/sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope")
    group.mkdir(parents=True)
    return [
        actors.start("container", _container, str(group)),
        actors.start("user_namespace", _user_namespace),
        actors.start("chrooted", _chrooted),
        actors.start("unprivileged", _capabilities),
    ]


def _container(group: str) -> list[Any]:
    """Namespaces of every kind: process 1 of a new pid namespace, with its own network, mounts and name."""
    Path(f"{group}/cgroup.procs").write_text(str(os.getpid()))
    libc.unshare(
        libc.CLONE_NEWNS
        | libc.CLONE_NEWNET
        | libc.CLONE_NEWUTS
        | libc.CLONE_NEWIPC
        | libc.CLONE_NEWCGROUP
        | libc.CLONE_NEWPID
    )
    first = actors.start("init", _container_first, name=b"init")
    return [first]


def _container_first() -> list[Any]:
    os.setsid()
    libc.mount("none", "/", "none", 1 << 18 | 1 << 14)  # MS_PRIVATE | MS_REC
    libc.sethostname(b"container")
    os.makedirs("/run/inner", exist_ok=True)
    libc.mount("inner", "/run/inner", "tmpfs", data="size=1m")
    libc.mount("proc", "/proc", "proc")
    libc.mount("/run/loot/deep", "/mnt", "none", 1 << 12)  # MS_BIND
    sockets.ip(
        "link set lo up",
        "link add inner0 type veth peer name inner1",
        "addr add 10.9.8.7/24 dev inner0",
        "addr add fd00::7/64 dev inner0 nodad",
        "link set inner0 up",
        "link set inner1 up",
        "neigh add 10.9.8.1 lladdr 02:00:00:00:09:08 nud permanent dev inner0",
    )
    os.chdir("/run/inner")
    Path("notes").write_text("inside")
    worker = actors.start("worker", _as, 1000, name=b"inner-worker")
    return [
        worker,
        socket.create_server(("0.0.0.0", 8080)),
        socket.create_server(("fd00::7", 8081), family=socket.AF_INET6),
        socket.socketpair(),
        open("notes"),
    ]


def _user_namespace() -> None:
    libc.unshare(libc.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text("0 0 1\n")
    Path("/proc/self/gid_map").write_text("0 0 1\n")


def _chrooted() -> list[Any]:
    """Paths of a chrooted process are seen from outside."""
    os.chroot(f"{files.EXT4}")
    os.chdir("/")
    return [open("/jail file", "w")]


def _capabilities() -> None:
    """A user with two capabilities, one of them ambient, a smaller bounding set, and no way to get more."""
    wanted = "--reuid 1000 --regid 1000 --clear-groups --inh-caps=-all,+net_raw,+net_bind_service"
    limits = "--ambient-caps=+net_raw --bounding-set=-all,+net_raw,+net_bind_service,+chown --no-new-privs"
    arguments = ["setpriv", *wanted.split(), *limits.split(), "sleep", "100000"]
    actors.become("/usr/bin/setpriv", [argument.encode() for argument in arguments])


def _states() -> list[actors.Actor]:
    stopped = actors.start("stopped", _stand)
    os.kill(stopped["pid"], signal.SIGSTOP)
    return [
        stopped,
        actors.start("daemon", os.setsid),
        actors.start("zombie_parent", _leaves_a_zombie),
        {"role": "uninterruptible", "pid": _uninterruptible()},
        actors.start("orphan", _orphan),
    ]


def _leaves_a_zombie() -> None:
    if os.fork() == 0:
        libc.set_name(b"undead")
        os._exit(3)


def _orphan() -> None:
    """A grandchild whose parent is gone: adopted by process 1."""
    if os.fork() == 0:
        if os.fork() == 0:
            libc.set_name(b"orphan")
            signal.pause()
        os._exit(0)
    os.wait()


def _uninterruptible() -> int:
    pid = os.fork()
    if pid == 0:
        libc.set_name(b"waits-in-D")
        if libc.fork_and_stand_still() == 0:
            libc.set_name(b"awaited")
            while True:
                signal.pause()
    return pid


def _shells() -> list[actors.Actor]:
    old = Path("/home/analyst/.bash_history")
    old.parent.mkdir(parents=True, exist_ok=True)
    old.write_text("#1600000001\nold command with a time\n#1600000002\nanother\n")
    old.chmod(0o644)
    control = {"HISTCONTROL": "ignorespace", "HISTFILE": str(old), "HOME": "/home/analyst"}
    quiet = subprocess.Popen(
        ["/bin/bash", "-c", "read never < <(sleep 100000); true"], stdin=subprocess.DEVNULL
    )
    time.sleep(0.2)
    renamed = shutil.copy("/bin/bash", f"{files.TMPFS}/.updater")
    return [
        shell.typed("shell_root", TYPED, 0, {"HOME": "/root"}),
        # A subshell has the history of its parent, but nobody typed at it.
        shell.typed("shell_analyst", ["id", " unseen", "(sleep 100000; true) &", "echo seen"], 1000, control),
        shell.typed("shell_renamed", HIDDEN, 0, {"HOME": "/root"}, program=renamed),
        {"role": "shell_script", "pid": quiet.pid, "history": []},
    ]
