"""An opened dump: the image, the kernel in it, its tables, and SQL over them.

This is the library's front door.  It stands outside the folders because it joins all of them.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from memdump import tables
from memdump.image import open_image

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from types import TracebackType

    from memdump.image.base import Image
    from memdump.image.layers import Ask, Key
    from memdump.kernel.kernel import Kernel
    from memdump.kernel.problems import Problem
    from memdump.query import Answer


class Dump:
    """A memory image that can be asked questions."""

    def __init__(self, image: Image) -> None:
        self.image = image

    @classmethod
    def open(cls, path: str | os.PathLike[str], identity: Key = None, ask: Ask | None = None) -> Dump:
        """Recognise the format of the file by its content and map it; `open_image` has the arguments."""
        return cls(open_image(path, identity, ask))

    @cached_property
    def kernel(self) -> Kernel:
        """The kernel in the image, found at first use; raises `memdump.kernel.problems.NoKernel`."""
        from memdump.kernel import open_kernel

        return open_kernel(self.image)

    def table(self, name: str) -> Iterator[Any]:
        """The rows of a table, read as they are asked for.

        Raises `UsageError` where there is no such table.
        """
        return tables.find(name).rows(self.kernel)

    def query(self, sql: str) -> Answer:
        """Ask in SQL over all tables; only those that ``sql`` names are built.

        Raises `UsageError` where the SQL is wrong.
        """
        from memdump.query import ask

        return ask(self, sql)

    @property
    def address(self) -> str:
        """How a command line names the image to open it again."""
        identity = self.image.identity
        return f"{self.image.path}{f' --identity {identity}' if identity else ''}"

    @property
    def problems(self) -> list[Problem]:
        """What could not be read so far; the table ``problems`` is what cannot be read at all."""
        from memdump.kernel.problems import Problem

        noted = self.kernel.problems if "kernel" in self.__dict__ else ()
        damage = (Problem("", str(self.image.path), defect) for defect in self.image.defects)
        return list(dict.fromkeys((*damage, *noted)))

    def close(self) -> None:
        """Close the image; rows that were read stay valid."""
        self.image.close()

    def __enter__(self) -> Dump:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
