"""Lets drgn's Linux helpers be imported one by one.

``import drgn.helpers.linux.pid`` makes Python import the package ``drgn.helpers.linux`` first, which
imports all of its 50 modules: a third of the time that a whole command takes.  Here the package stands in
``sys.modules`` with nothing run yet; it runs as usual when anything but one of its modules is asked for, as
``from drgn.helpers.linux import *`` does.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

PACKAGE = "drgn.helpers.linux"


class Unrun(ModuleType):
    """A package whose own code runs when a name is missing."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        if (name.startswith("__") and name != "__all__") or spec is None or spec.loader is None:
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader.exec_module(self)
        return getattr(self, name)


def install() -> None:
    """Put the package into ``sys.modules`` without running it, unless it is there already."""
    spec = None if PACKAGE in sys.modules else importlib.util.find_spec(PACKAGE)
    if spec is not None:
        package = Unrun(PACKAGE)
        package.__spec__, package.__loader__ = spec, spec.loader
        package.__file__, package.__path__ = spec.origin, list(spec.submodule_search_locations or ())
        package.__package__ = PACKAGE
        sys.modules[PACKAGE] = package
        parent, _, name = PACKAGE.rpartition(".")
        setattr(sys.modules[parent], name, package)
