"""What all tests share: the lab's guests, and how long an example may take."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import memdump
from tests.lab import arm64, cache, guests
from tests.lab import others as others_guest
from tests.lab.live import Live
from tests.machine import pythons

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.dump import Dump
    from tests.lab.guests import Made

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("memdump", deadline=None)
settings.load_profile("memdump")

LAB_REQUIRED = os.environ.get("CI") == "true" or os.environ.get("MEMDUMP_REQUIRE_LAB") == "1"


def pytest_configure(config: pytest.Config) -> None:
    # A shell has what it starts in the background ignore Ctrl-C, and so all that is started from there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "lab: needs a real guest, booted when it is not in the lab's cache")
    config.addinivalue_line("markers", "xdist_group(name): tests that one process runs, of several")


def pytest_report_header() -> str:
    return pythons.told()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever takes a guest is a test of the lab; all that look into one guest share the opened image."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        if "live" in names:
            item.add_marker(pytest.mark.lab)
            item.add_marker(pytest.mark.xdist_group("live"))
        if "others" in names:
            item.add_marker(pytest.mark.lab)
            item.add_marker(pytest.mark.xdist_group("others"))
        if "guest" in names:
            item.add_marker(pytest.mark.lab)
            if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
                item.add_marker(pytest.mark.xdist_group(f"guest {item.callspec.params['guest']}"))


@functools.cache
def _made(name: str) -> Made | Exception:
    """The guest, or why there is none: a guest that could not be made is not tried again for each test."""
    try:
        others = {"arm64": arm64.get, others_guest.NAME: others_guest.get}
        return others[name]() if name in others else guests.get(guests.GUESTS[name])
    except (cache.NoLab, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        return error


def made(name: str) -> Made:
    """A guest by its name; without a lab the test is skipped, or fails where the lab is required."""
    found = _made(name)
    if not isinstance(found, Exception):
        return found
    if isinstance(found, cache.NoLab) and not LAB_REQUIRED:
        pytest.skip(str(found))
    pytest.fail(f"no guest {name}: {found}", pytrace=False)


@pytest.fixture(scope="session", params=sorted(guests.GUESTS))
def guest(request: pytest.FixtureRequest) -> Made:
    """Each guest of the lab: its images and the truth about them."""
    name: str = request.param
    return made(name)


@pytest.fixture(scope="session")
def others() -> Made:
    """The guest whose memory others' programs took too."""
    return made(others_guest.NAME)


@pytest.fixture(scope="session")
def live() -> Iterator[Live]:
    """A guest to work in, over ssh; whatever a test changes in it, later tests find."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(Live())
        except (cache.NoLab, RuntimeError, OSError, subprocess.CalledProcessError) as error:
            if isinstance(error, cache.NoLab) and not LAB_REQUIRED:
                pytest.skip(str(error))
            pytest.fail(f"no live guest: {error}", pytrace=False)
        yield found


@pytest.fixture(scope="session")
def dump(guest: Made) -> Iterator[Dump]:
    """The image that QEMU wrote at the moment of the truth, opened."""
    with memdump.open(guest.qmp_image) as opened:
        yield opened


@pytest.fixture(scope="session")
def lime_dump(guest: Made) -> Iterator[Dump]:
    """The image that ``memdump acquire`` wrote inside the guest, opened: it carries no VMCOREINFO note."""
    with memdump.open(guest.lime_image) as opened:
        yield opened
