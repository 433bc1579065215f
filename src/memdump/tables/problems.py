"""The ``problems`` table: what could not be read for any of the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump import tables
from memdump.kernel.problems import Problem
from memdump.tables.schema import table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel


@table(Problem)
def problems(kernel: Kernel) -> Iterator[Problem]:
    """Read every other table, then yield what was noted on the way, or before."""
    for name in tables.names():
        if name != "problems":
            for _ in tables.find(name).rows(kernel):
                pass
    for defect in kernel.image.defects:
        kernel.problems.add("", str(kernel.image.path), defect)
    yield from kernel.problems
