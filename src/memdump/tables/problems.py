"""The ``problems`` table: what could not be read while the other tables were built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.kernel.problems import Problem
from memdump.tables.schema import table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel import Kernel


@table(Problem)
def problems(kernel: Kernel) -> Iterator[Problem]:
    """Yield what has been noted so far."""
    yield from kernel.problems
