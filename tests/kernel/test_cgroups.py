from __future__ import annotations

import pytest

from memdump.kernel.cgroups import container_id

ID = "f0e1d2c3b4a5968778695a4b3c2d1e0ff0e1d2c3b4a5968778695a4b3c2d1e0f"
POD = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1234abcd_0000.slice"


@pytest.mark.parametrize(
    "path",
    [
        f"/docker/{ID}",
        f"/system.slice/docker-{ID}.scope",
        f"{POD}/cri-containerd-{ID}.scope",
        f"{POD}/crio-{ID}.scope/container",
        f"/kubepods/besteffort/pod1234-abcd/{ID}",
        f"/machine.slice/libpod-{ID}.scope/container",
        f"/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{ID}",
        f"/docker/{'0' * 64}/docker/{ID}",
    ],
)
def test_a_container_is_known_by_how_its_engine_names_its_cgroup(path: str) -> None:
    assert container_id(path) == ID


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/user.slice/user-1000.slice/session-1.scope",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"{POD}/crio-conmon-{ID}.scope",
        f"/docker/{ID}0",
        f"/docker/{ID[:-1]}",
    ],
)
def test_what_is_no_container_has_no_id(path: str) -> None:
    assert container_id(path) is None
