"""Importing modules that were sent, and stand in no file: nothing is written where they run.

This is run by whatever Python the host has, before it is known to be new enough: so its syntax is that of
Python 3.4.
"""

import sys
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from typing import Any, Dict, Optional


class InMemory(MetaPathFinder, InspectLoader):
    """Finds modules by their names in a dictionary of their sources; a package is named ``NAME.__init__``."""

    def __init__(self, sources: Dict[str, str]) -> None:
        self._sources = sources

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Optional[ModuleSpec]:  # noqa: ARG002
        """Tell how a module is had, or None where it is none of these."""
        if fullname in self._sources or self.is_package(fullname):
            return spec_from_loader(fullname, self, is_package=self.is_package(fullname))
        return None

    def is_package(self, fullname: str) -> bool:
        """Tell whether a module holds others."""
        return fullname + ".__init__" in self._sources

    def get_source(self, fullname: str) -> str:
        """Give the text of a module."""
        return self._sources[fullname + ".__init__" if self.is_package(fullname) else fullname]


def install(sources: Dict[str, str]) -> None:
    """Have the import statement look into ``sources`` first, and write no compiled module."""
    sys.dont_write_bytecode = True
    sys.meta_path.insert(0, InMemory(sources))
