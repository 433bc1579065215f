"""What was going on: one table per file, found by name.

The built-in tables are listed here and imported when asked for; others come with the entry-point group
``memdump.tables``, whose entries name a `memdump.tables.schema.Table`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from memdump.errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from memdump.tables.schema import Table

BUILT_IN = {
    "system": "system",
    "processes": "processes",
    "threads": "threads",
    "environment": "environment",
    "open_files": "open_files",
    "memory_maps": "memory_maps",
    "sockets": "sockets",
    "interfaces": "interfaces",
    "neighbours": "neighbours",
    "modules": "modules",
    "mounts": "mounts",
    "kernel_log": "kernel_log",
    "shell_history": "shell_history",
    "recent_files": "recent_files",
    "capabilities": "capabilities",
    "namespaces": "namespaces",
    "users": "users",
    "problems": "problems",
}
"""Table name to the module of this package that defines an object of the same name."""


def names() -> list[str]:
    """The names of all tables, the built-in ones first."""
    return [*BUILT_IN, *(name for name in _third_party() if name not in BUILT_IN)]


def find(name: str) -> Table:
    """The table called ``name``; raises `UsageError` where there is none."""
    found: Table
    if name in BUILT_IN:
        found = getattr(importlib.import_module(f"memdump.tables.{BUILT_IN[name]}"), name)
        return found
    entry = _third_party().get(name)
    if entry is None:
        raise UsageError(f"there is no table {name!r}{_suggestion(name)}; 'memdump tables' lists them")
    return _load(entry)


def _third_party() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group="memdump.tables")}


def _load(entry: EntryPoint) -> Table:
    from memdump.tables.schema import Table

    origin = f"{entry.value!r} of {entry.dist.name if entry.dist else 'an unknown package'}"
    try:
        found = entry.load()
    except Exception as error:
        raise UsageError(f"the table {entry.name!r} cannot be loaded from {origin}: {error}") from error
    if not isinstance(found, Table):
        raise UsageError(f"{origin} is no table: decorate its generator with memdump.tables.schema.table")
    return found


def _suggestion(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, names(), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
