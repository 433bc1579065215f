"""The acquiring side of memdump in one piece, to be sent to a host or carried there.

``python -m memdump.machine.bundle OUT.pyz`` writes it as a program of one file, which any Python from 3.8 on
runs with nothing installed.  Made twice from the same sources, the file is the same.
"""

import ast
import io
import pkgutil
import re
import sys
import zipfile
from pathlib import Path
from typing import Dict, Iterator, Optional, Sequence

from memdump.errors import MemdumpError
from memdump.machine.output import Output

_SIDE = re.compile(
    r"memdump(\.errors|\.seal|\.machine|\.machine\..*|\.report|\.report\.text|\.cli|\.cli\._.*|\.cli\.acquire)?"
)
"""The modules of the acquiring side.  They import others too, but only where these are at hand and of use."""

_START = """\
import sys
if sys.version_info < (3, 8):
    sys.exit("memdump: this is Python %d.%d, and memdump needs 3.8 or newer: run it with another one that is"
             " here (python3.8 to python3.14), or take one along" % sys.version_info[:2])
sys.dont_write_bytecode = True
from memdump.cli import main
sys.exit(main())
"""
"""The first thing the program runs; older Pythons than 3.8 must understand it too."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time that all parts of the program bear: the first that a zip file can."""
_NOT_FROM_THERE = ("memdump.machine.ssh", "memdump.machine.qemu")
"""The sources that would lead from the host on to others."""


def sources(*entries: str, without: Sequence[str] = ()) -> Dict[str, str]:
    """Give the text of these modules and of all they need of the acquiring side, by name.

    That of a package is named ``NAME.__init__``.  What stands in ``without`` is not followed.
    """
    found: Dict[str, str] = {}
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        for key, file in ((name, f"{name}.py"), (f"{name}.__init__", f"{name}/__init__.py")):
            text = None if key in found or name in without else _text(file.replace(".", "/", name.count(".")))
            if text is not None:
                found[key] = text
                waiting += filter(_SIDE.fullmatch, [name.rpartition(".")[0], *_imported(text)])
    return found


def far_end() -> Dict[str, str]:
    """Give the modules that answer for a host's memory."""
    return sources("memdump.machine.in_memory", "memdump.machine.serve", without=_NOT_FROM_THERE)


def program() -> bytes:
    """Give the program as the bytes of a ``.pyz`` file."""
    buffer = io.BytesIO()
    buffer.write(b"#!/usr/bin/env python3\n")
    parts = {f"{name.replace('.', '/')}.py": text for name, text in sources("memdump.cli.acquire").items()}
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, text in sorted({**parts, "__main__.py": _START}.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # the same on every system: Unix
            archive.writestr(entry, text)
    return buffer.getvalue()


def _imported(text: str) -> Iterator[str]:
    """Give what may be the name of a module that this one imports, wherever it does."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _text(file: str) -> Optional[str]:
    """Read a file of memdump through whatever imported it, be it a folder or such a program."""
    try:
        data = pkgutil.get_data("memdump", file.partition("/")[2])
    except OSError:
        return None
    return None if data is None else data.decode("utf-8")


def main(path: str) -> None:
    """Write the program to a new file; raises `MemdumpError` where that cannot be."""
    with Output(path) as out:
        out.write(program())
        out.commit()
    Path(path).chmod(0o755)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m memdump.machine.bundle OUT.pyz")
    try:
        main(sys.argv[1])
    except MemdumpError as error:
        sys.exit(f"memdump: {error}")
