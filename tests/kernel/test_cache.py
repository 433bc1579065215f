from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memdump.kernel import cache
from memdump.kernel.btf import Btf
from memdump.kernel.symbols import SymbolTable
from tests.kernel.test_btf import SMALL

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.dump import Dump

ADDRESS = 0xFFFFFFFF81000000


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cache file of the kernel "ab" is, after it was stored."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.store("ab", ADDRESS, known())
    return tmp_path / "memdump" / f"ab-{ADDRESS:x}.kernel"


def known() -> cache.Remembered:
    symbols = SymbolTable.build([ADDRESS, ADDRESS + 8], [b"T_text", b"Djiffies"])
    return cache.Remembered(symbols, Btf(SMALL).index, 7)


def test_what_was_stored_is_loaded(place: Path) -> None:
    found = cache.load("ab", ADDRESS)
    assert found is not None
    assert [(symbol.name, symbol.address) for symbol in found.symbols] == [
        ("_text", ADDRESS),
        ("jiffies", ADDRESS + 8),
    ]
    assert [number for number, _ in Btf(SMALL, index=found.btf).named("node")] == [2]
    assert found.btf_check == 7


def test_only_the_owner_can_read_it(place: Path) -> None:
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.parent.stat().st_mode & 0o777 == 0o700


def test_another_address_is_another_kernel(place: Path) -> None:
    assert cache.load("ab", ADDRESS + 0x200000) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_torn_file_counts_as_absent(place: Path, data: st.DataObject) -> None:
    whole = place.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    try:
        place.write_bytes(whole[:at])
        assert cache.load("ab", ADDRESS) is None
        place.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        assert cache.load("ab", ADDRESS) is None
    finally:
        place.write_bytes(whole)


def test_a_file_that_others_may_write_counts_as_absent(place: Path) -> None:
    place.chmod(0o622)
    assert cache.load("ab", ADDRESS) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_counts_as_absent(place: Path) -> None:
    os.chown(place, 65534, 65534)
    assert cache.load("ab", ADDRESS) is None


def test_a_link_is_not_followed(place: Path, tmp_path: Path) -> None:
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert cache.load("ab", ADDRESS) is None


def test_a_pipe_in_its_place_does_not_block(place: Path) -> None:
    place.unlink()
    os.mkfifo(place)
    assert cache.load("ab", ADDRESS) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache.store("ab", ADDRESS, known())
    assert cache.load("ab", ADDRESS) is None


def test_only_the_newest_are_kept(place: Path) -> None:
    for number in range(cache.MOST_FILES + 3):
        cache.store("cd", number, known())
    assert len(list(place.parent.iterdir())) == cache.MOST_FILES


@pytest.mark.lab
def test_the_second_open_answers_the_same(
    dump: Dump, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memdump.kernel import open_kernel

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = open_kernel(dump.image), open_kernel(dump.image)
    assert len(list(tmp_path.rglob("*.kernel"))) == 1
    assert list(second.symbols) == list(first.symbols)
    assert second.program.type("struct task_struct").size == first.program.type("struct task_struct").size
