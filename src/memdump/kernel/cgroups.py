"""The cgroups that tasks are in, and the containers that their names tell of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import drgn

from memdump.kernel.fields import Fields, first_member
from memdump.kernel.text import decode, string_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel

DEEPEST = 256
MOST_HIERARCHIES = 64
CONTAINER = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
"""How Docker, containerd (CRI), CRI-O and Podman all name a container: 256 random bits."""
MONITOR = re.compile(r"conmon-[0-9a-f]{64}")
"""The scope of the program that watches a container from outside: Podman's and CRI-O's conmon."""


class Cgroups:
    """The paths of cgroups below the root of their hierarchy; a set of them is worked out once."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._program = program = kernel.program
        node = program.type("struct kernfs_node")
        # kernfs_node.parent became __parent in Linux 6.15.
        self._node = Fields(node, first_member(node, "__parent", "parent"), "name")
        link = program.type("struct cgrp_cset_link")
        self._link = Fields(link, "cgrp_link.next", "cgrp")
        self._link_offset = drgn.offsetof(link, "cgrp_link")
        set_ = program.type("struct css_set")
        self._set = Fields(set_, "dfl_cgrp", "cgrp_links.next")
        self._links_offset = drgn.offsetof(set_, "cgrp_links")
        self._kernfs_node = Fields(program.type("struct cgroup"), "kn")
        self._paths: dict[int, str] = {}

    def path(self, css_set: Any) -> str:
        """The path for a ``struct css_set *``, as ``/proc/PID/cgroup`` has it; raises as torn memory does.

        That is the one in the unified hierarchy (version 2).  Where that is the root, it is the most telling
        one among the hierarchies of version 1: that of a container, or else the longest.
        """
        address = css_set.value_()
        found = self._paths.get(address)
        if found is None:
            unified, links = self._set.read(self._program, address)
            found = self._cgroup_path(unified)
            if found == "/":
                others = [self._cgroup_path(group) for group in self._cgroups(address, links)]
                found = max([found, *others], key=_how_telling)
            self._paths[address] = found
        return found

    def _cgroups(self, css_set: int, link: int) -> Iterator[int]:
        """The cgroup in each hierarchy: ``css_set.cgrp_links`` of ``include/linux/cgroup-defs.h``."""
        for _ in range(MOST_HIERARCHIES):
            if link == css_set + self._links_offset:
                return
            link, group = self._link.read(self._program, link - self._link_offset)
            yield group
        raise ValueError(f"css_set {css_set:#x} has an endless list of cgroups")

    def _cgroup_path(self, cgroup: int) -> str:
        (node,) = self._kernfs_node.read(self._program, cgroup)
        names: list[str] = []
        for _ in range(DEEPEST):
            parent, name = self._node.read(self._program, node)
            if not parent:
                return "/" + "/".join(reversed(names))
            names.append(decode(string_at(self._program, name)))
            node = parent
        raise ValueError(f"cgroup {cgroup:#x} lies endlessly deep")


def _how_telling(path: str) -> tuple[bool, int, str]:
    return container_id(path) is not None, len(path), path


def container_id(cgroup: str) -> str | None:
    """The id, 64 hexadecimal digits, of the innermost container that a cgroup's path names."""
    found = CONTAINER.findall(MONITOR.sub("", cgroup))
    return found[-1] if found else None
