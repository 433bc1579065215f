from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from memdump.dump import Dump
    from tests.lab.guests import Made

OF_EVERY_FILE_SYSTEM = {"sync", "dirsync", "mand", "lazytime"}


class Line(NamedTuple):
    """A line of mountinfo: proc(5)."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    mount_point: str
    type: str
    source: str
    options: list[str]
    super_options: list[str]

    @property
    def common(self) -> list[str]:
        """The options as /proc/mounts joins them, without those of one file system alone."""
        access = "ro" if "ro" in (self.options[0], self.super_options[0]) else "rw"
        shared = [option for option in self.super_options if option in OF_EVERY_FILE_SYSTEM]
        return [access, *shared, *self.options[1:]]


def plain(field: str) -> str:
    """A field without its octal escapes."""
    data = field.encode("utf-8", "surrogateescape")
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), data).decode(
        "utf-8", "surrogateescape"
    )


def mountinfo(text: str) -> dict[int, Line]:
    found = {}
    for line in text.splitlines():
        number, parent, device, root, point, options, *more = line.split(" ")
        type_, source, super_options = more[more.index("-") + 1 :]
        found[int(number)] = Line(
            int(number),
            int(parent),
            device,
            plain(root),
            plain(point),
            type_,
            plain(source),
            options.split(","),
            plain(super_options).split(","),
        )
    return found


def rows_of(dump: Dump, namespace: str) -> dict[int, Any]:
    return {row.mount_id: row for row in dump.table("mounts") if row.namespace == int(namespace)}


@pytest.mark.lab
def test_mounts_are_those_of_mountinfo_in_each_namespace(guest: Made, dump: Dump) -> None:
    for namespace, text in guest.truth["mounts"].items():
        truth, rows = mountinfo(text), rows_of(dump, namespace)
        assert {
            number: (row.parent_id, row.device, row.root, row.mount_point, row.type, row.source)
            for number, row in rows.items()
            if number in truth
        } == {number: line[1:7] for number, line in truth.items()}


@pytest.mark.lab
def test_what_proc_does_not_show_lies_beneath_the_root(guest: Made, dump: Dump) -> None:
    for namespace, text in guest.truth["mounts"].items():
        truth, rows = mountinfo(text), rows_of(dump, namespace)
        hidden = {number for number in rows if number not in truth}
        assert {rows[number].parent_id for number in hidden} <= hidden
        (root,) = (row for row in rows.values() if row.mount_id in truth and row.parent_id in hidden)
        assert root.mount_point == "/"


@pytest.mark.lab
def test_options_are_those_of_mountinfo(guest: Made, dump: Dump) -> None:
    for namespace, text in guest.truth["mounts"].items():
        rows = rows_of(dump, namespace)
        for number, line in mountinfo(text).items():
            options = rows[number].options.split(",")
            if line.type != "overlay":
                assert options == line.common


@pytest.mark.lab
def test_the_folders_of_an_overlay_are_told(guest: Made, dump: Dump) -> None:
    if not dump.kernel.module_btfs:
        pytest.skip("before 5.11, modules bring no types along")
    found = 0
    for namespace, text in guest.truth["mounts"].items():
        for number, line in mountinfo(text).items():
            if line.type == "overlay":
                folders = [option for option in line.super_options if option.split("=")[0].endswith("dir")]
                assert rows_of(dump, namespace)[number].options.split(",") == [*line.common, *folders]
                found += 1
    assert found
