from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from memdump.errors import MemdumpError, NotADump, NotPermitted, UsageError
from memdump.machine import crashdev, devmem, ebpf, kcore, qemu, sources, ssh
from memdump.machine.sources import NAMES, Options, open_source, survey
from tests.machine.fake_kcore import make

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLASSES = {
    "kcore": (kcore, "KcoreSource"),
    "crash": (crashdev, "CrashSource"),
    "devmem": (devmem, "DevmemSource"),
    "ebpf": (ebpf, "EbpfSource"),
}


class Sources:
    """The sources of a machine, each of which works or says why not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.errors: dict[str, MemdumpError] = {}
        self.opened: list[str] = []
        self.closed: list[str] = []
        for name, (module, class_name) in CLASSES.items():
            monkeypatch.setattr(module, class_name, self._opener(name))

    def _opener(self, name: str) -> Callable[[], Fake]:
        def open_() -> Fake:
            self.opened.append(name)
            if name in self.errors:
                raise self.errors[name]
            return Fake(name, self.closed)

        return open_


class Fake:
    """An open source."""

    def __init__(self, name: str, closed: list[str]) -> None:
        self.name = name
        self._closed = closed

    def close(self) -> None:
        self._closed.append(self.name)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Sources:
    return Sources(monkeypatch)


def test_the_first_that_works_is_taken_and_no_other_touched(machine: Sources) -> None:
    chosen = open_source()
    assert (chosen.source.name, chosen.refused) == ("kcore", [])
    assert machine.opened == ["kcore"]
    assert machine.closed == []


def test_the_reasons_of_those_that_do_not_work_are_kept(machine: Sources) -> None:
    machine.errors = {
        "kcore": NotADump("is masked"),
        "crash": NotPermitted("is not there"),
        "devmem": MemdumpError("is restricted"),
    }
    chosen = open_source("auto")
    assert chosen.source.name == "ebpf"
    assert chosen.refused == [("kcore", "is masked"), ("crash", "is not there"), ("devmem", "is restricted")]


def test_where_none_works_every_reason_is_told_once(machine: Sources) -> None:
    machine.errors = dict.fromkeys(("kcore", "crash", "ebpf"), NotPermitted("run as root"))
    machine.errors["devmem"] = NotADump("is restricted")
    with pytest.raises(NotPermitted) as caught:
        open_source("auto")
    assert str(caught.value) == (
        "this machine's memory cannot be had through any source:"
        " kcore, crash, ebpf: run as root; devmem: is restricted"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_source_that_is_named_is_taken_or_says_why_not(machine: Sources, name: str) -> None:
    assert open_source(name).source.name == name
    machine.errors[name] = NotPermitted("is not for you")
    with pytest.raises(NotPermitted, match="is not for you"):
        open_source(name)
    assert machine.opened == [name, name]


def test_the_names_are_those_that_sources_have_themselves() -> None:
    assert [getattr(module, name).name for module, name in CLASSES.values()] == list(NAMES)


@pytest.mark.parametrize("name", ["", "kcore:", "lime", "qemu", "qemu:", "ssh:", "http:host", "auto:x"])
def test_a_name_that_is_none_is_wrong_usage(machine: Sources, name: str) -> None:
    with pytest.raises(UsageError, match=r"auto, or one of kcore, .*qemu:SOCKET, ssh:\[USER@\]HOST"):
        open_source(name)
    assert machine.opened == []


def test_sources_of_other_machines_get_what_they_are_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[tuple[object, ...]] = []

    class Remote(Fake):
        @property
        def refused(self) -> list[tuple[str, str]]:
            return [("kcore", "is masked there")]

        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__("remote", [])
            got.append((*arguments, *options.values()))

    monkeypatch.setattr(qemu, "QemuSource", Remote)
    monkeypatch.setattr(ssh, "SshSource", Remote)
    open_source("qemu:/run/a:b/qmp.sock")
    open_source("qemu:x", Options(live=True))
    assert open_source("ssh:root@web1").refused == [("kcore", "is masked there")]
    open_source("ssh:ssh://web1:2222", Options(sudo=True, ssh_options=("Port=1",)))
    assert got == [
        ("/run/a:b/qmp.sock", False),
        ("x", True),
        ("root@web1", None, ()),
        ("ssh://web1:2222", True, ("Port=1",)),
    ]


def test_a_survey_tries_all_others_and_leaves_none_open(machine: Sources) -> None:
    machine.errors = {"devmem": NotPermitted("is restricted")}
    assert survey("kcore") == [("crash", "works here"), ("devmem", "is restricted"), ("ebpf", "works here")]
    assert machine.opened == ["crash", "devmem", "ebpf"]
    assert machine.closed == ["crash", "ebpf"]
    assert [name for name, _ in survey()] == list(NAMES)


def test_kcore_comes_first_on_a_machine_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make(tmp_path)
    real = kcore.KcoreSource
    monkeypatch.setattr(kcore, "KcoreSource", lambda: real(str(files.kcore), str(files.iomem)))
    with contextlib.closing(sources.open_source().source) as source:
        buffer = bytearray(16)
        source.read_into(0x100000, memoryview(buffer))
        assert buffer == files.memory[0x100000][:16]
