"""Which archive the kernels come from: sources.list(5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab import cache, kernels

if TYPE_CHECKING:
    from pathlib import Path

DEB822 = """\
# the machine's own
Types: deb deb-src
URIs: http://one.example/debian
 http://two.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/archive.gpg

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no
"""

ONE_LINE = """\
# deb http://comment.example/debian bookworm main
deb [arch=amd64 signed-by=/etc/key.asc] http://three.example/debian bookworm main non-free
deb-src http://three.example/debian bookworm main
deb http://other.example/apt stable main
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "os-release").write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
    return tmp_path


def test_the_archives_are_those_of_the_machines_own_release(etc: Path) -> None:
    (etc / "apt/sources.list.d/debian.sources").write_text(DEB822)
    (etc / "apt/sources.list").write_text(ONE_LINE)
    assert kernels.archives(etc) == [
        kernels.Archive("http://three.example/debian", "/etc/key.asc"),
        kernels.Archive("http://one.example/debian", "/usr/share/keyrings/archive.gpg"),
        kernels.Archive("http://two.example/debian", "/usr/share/keyrings/archive.gpg"),
    ]


def test_a_key_that_stands_in_the_sources_is_handed_on_whole(etc: Path) -> None:
    key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----"
    stanza = f"Types: deb\nURIs: http://one.example/\nSuites: bookworm\nComponents: main\nSigned-By:{key}\n"
    (etc / "apt/sources.list.d/debian.sources").write_text(stanza)
    (archive,) = kernels.archives(etc)
    assert key.strip() in archive.stanza("trixie")
    assert "Suites: trixie\n" in archive.stanza("trixie")


def test_without_an_archive_the_lab_says_so(etc: Path) -> None:
    with pytest.raises(cache.NoLab, match="no Debian archive"):
        kernels.archives(etc)


def test_the_source_of_a_package_is_asked_of_the_same_archive() -> None:
    stanza = kernels.Archive("http://one.example/", "/etc/key.asc").stanza("trixie", "deb-src")
    assert stanza.startswith("Types: deb-src\nURIs: http://one.example/\nSuites: trixie\n")
