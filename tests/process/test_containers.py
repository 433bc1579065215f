"""Which processes are a container's, by the cgroups that engines make for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memdump.errors import UsageError
from memdump.process import members, proc

if TYPE_CHECKING:
    from pathlib import Path

A, B = "a1b2" * 16, "a1c3" * 16
POD = "kubepods-burstable-pod3f_04.slice"
CGROUPS = {
    10: "0::/init.scope",
    11: f"0::/system.slice/docker-{A}.scope",
    12: f"0::/system.slice/docker-{A}.scope/init.scope",
    13: f"0::/system.slice/docker-{B}.scope",
    20: f"0::/kubepods.slice/{POD}/cri-containerd-{'d' * 64}.scope",
    21: f"0::/kubepods.slice/{POD}/cri-containerd-{'e' * 64}.scope",
    30: f"0::/machine.slice/libpod-conmon-{'c' * 64}.scope",
    31: f"0::/machine.slice/libpod-{'c' * 64}.scope/container",
    40: "0::/lxc.monitor.web",
    41: "0::/lxc.payload.web",
    42: "0::/lxc.payload.web-2",
    50: f"4:memory:/docker/{'9' * 64}\n3:pids:/docker/{'9' * 64}\n0::/",
    60: "0::/machine.slice/machine-my\\x2dbox.scope",
    61: "0::/machine.slice/systemd-nspawn@other.service/payload",
    70: f"0::/system.slice/docker-{B}.scope (deleted)",
}
ZOMBIE = 70


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid, cgroup in CGROUPS.items():
        folder = tmp_path / str(pid)
        (folder / "task" / str(pid)).mkdir(parents=True)
        (folder / "cgroup").write_text(f"{cgroup}\n")
        rest = " ".join(["0"] * 34 + ["17"])
        (folder / "stat").write_text(f"{pid} (x) {'Z' if pid == ZOMBIE else 'S'} {rest}\n")
    monkeypatch.setattr(proc, "_ROOT", str(tmp_path))


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(
    ("wanted", "pids"),
    [
        (A, [11, 12]),
        (A[:4], [11, 12]),
        (f"docker-{A}.scope", [11, 12]),
        (B[:12], [13]),
        ("d" * 12, [20]),
        ("pod3f_04", [20, 21]),
        ("c" * 64, [31]),
        (f"libpod-conmon-{'c' * 64}.scope", [30]),
        ("web", [41]),
        ("web-2", [42]),
        ("9999", [50]),
        ("my-box", [60]),
        ("other", [61]),
    ],
)
def test_a_container_is_found_by_its_id_or_name(wanted: str, pids: list[int]) -> None:
    belongs = members.by_container(wanted)
    assert sorted(filter(belongs, proc.all_pids())) == pids


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("wanted", ["a1", "cri-containerd", "we", "s"])
def test_what_may_be_several_is_none(wanted: str) -> None:
    with pytest.raises(UsageError, match=f"^'{wanted}' may be one of several cgroups, write more of it: /"):
        members.by_container(wanted)


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("wanted", ["b2", "scope", "a1b2" * 17])
def test_what_is_none_is_none(wanted: str) -> None:
    with pytest.raises(UsageError, match=f"no process in a cgroup called '{wanted}'"):
        members.by_container(wanted)
