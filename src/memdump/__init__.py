"""memdump: take the memory of a running UNIX system and say what was going on in it.

>>> import memdump
>>> with memdump.open("server.lime") as dump:  # doctest: +SKIP
...     for process in dump.table("processes"):
...         print(process.pid, process.command_line)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from memdump.dump import Dump
    from memdump.image.layers import Ask, Key

__version__ = "0.1.0"
__all__ = ["open"]


def open(path: str | os.PathLike[str], identity: Key = None, ask: Ask | None = None) -> Dump:  # noqa: A001
    """Open a memory image of any format that memdump reads, compressed and encrypted or not.

    ``identity`` is what decrypts it: a file of age identities or an SSH key, or identities that
    `memdump.image.age` has made.  ``ask``, where it is given, is called with a line of words where a
    passphrase is needed, and returns it.

    Raises `memdump.errors.NotADump` where the file is none, `memdump.errors.NotPermitted` where it may not
    be read or cannot be decrypted.
    """
    from memdump.dump import Dump

    return Dump.open(path, identity, ask)
