from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from memdump.machine.acquire import Job, acquire, image_size
from memdump.machine.kcore import KcoreSource
from memdump.machine.source import Range
from tests.machine.fake_kcore import PAGE, make
from tests.machine.test_pipeline import Collected, Faulty

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.machine.manifest import Manifest
    from memdump.machine.source import Source

JOB = Job("0.1.0", ["memdump", "acquire"], "a.lime")


def taken(source: Source, stream: Collected, stop_after: int = 1 << 60) -> Manifest:
    """Acquire, and stop after so many blocks."""
    done: list[int] = []
    manifest = acquire(
        source, stream, JOB, done.append, lambda: "enough" if len(done) >= stop_after else None
    )
    assert done == sorted(done)
    return manifest


def lime(image: bytes) -> dict[int, bytes]:
    """Read a LiME image by the words of LiME's own documentation."""
    found = {}
    while image:
        magic, version, first, last, reserved = struct.unpack("<IIQQ8s", image[:32])
        assert (magic, version, reserved) == (0x4C694D45, 1, bytes(8))
        found[first], image = image[32 : 33 + last - first], image[33 + last - first :]
    return found


def test_an_image_holds_all_memory_and_the_manifest_says_so(tmp_path: Path) -> None:
    machine = make(tmp_path)
    source = KcoreSource(str(machine.kcore), str(machine.iomem))
    stream = Collected()
    manifest = taken(source, stream)
    source.close()
    assert lime(bytes(stream.data)) == machine.memory
    assert manifest.complete
    assert manifest.stopped_by is None
    assert manifest.size == len(stream.data) == image_size(manifest.ranges)
    assert manifest.sha256 == hashlib.sha256(stream.data).hexdigest()
    assert manifest.vmcoreinfo == "OSRELEASE=6.1.0\n"
    assert manifest.source == "kcore"
    assert manifest.unreadable == []
    assert manifest.started.boot_time_ns < manifest.ended.boot_time_ns


@given(st.sets(st.integers(0, 29)))
def test_pages_that_cannot_be_read_are_zeros_and_the_rest_is_there(bad: set[int]) -> None:
    ranges = [Range(2 * PAGE, 8 * PAGE), Range(20 * PAGE, 10 * PAGE)]
    source = Faulty(ranges, {page for page in bad if 2 <= page < 10 or page >= 20})
    stream = Collected()
    manifest = taken(source, stream)
    assert lime(bytes(stream.data)) == {found.start: source.truth(found) for found in ranges}
    assert sum(found.size for found in manifest.unreadable) == len(source.bad) * PAGE
    assert manifest.complete


def test_what_was_taken_before_a_stop_is_described() -> None:
    source = Faulty([Range(0, PAGE), Range(2 * PAGE, PAGE)], set())
    stream = Collected()
    manifest = taken(source, stream, stop_after=1)
    assert (manifest.complete, manifest.stopped_by) == (False, "enough")
    assert manifest.size == len(stream.data) == 32 + PAGE
    assert manifest.sha256 == hashlib.sha256(stream.data).hexdigest()
    assert manifest.ranges == source.ranges()


def test_a_stream_that_fails_ends_it_with_the_reason() -> None:
    source = Faulty([Range(0, PAGE), Range(2 * PAGE, PAGE)], set())
    stream = Collected(room=32 + PAGE + 40)
    manifest = taken(source, stream)
    assert (manifest.complete, manifest.stopped_by) == (False, "full")
    assert manifest.sha256 == hashlib.sha256(stream.data).hexdigest()
