"""The side that takes processes runs with every Python from 3.8 on, and nothing but its standard library."""

from __future__ import annotations

import pkgutil
import subprocess
from pathlib import Path

import pytest

import memdump.process
from tests.machine.pythons import TRIED
from tests.process.cores import Core
from tests.process.targets import begun, built, needs_gcc
from tests.process.test_core import is_whole

SOURCE = Path(memdump.__file__).parent.parent
TAKE = """
import importlib, sys
from pathlib import Path
pid, out, *modules = sys.argv[1:]
for name in modules:
    importlib.import_module('memdump.process.' + name)
from memdump.machine.output import Output
from memdump.process.guardian import Guardian
from memdump.process.selection import Choice
from memdump.process.take import copy, core
from memdump.process.target import survey
target = survey(int(pid), 'fork')
with Guardian([target.wanted(Choice())]) as guardian, Output(out) as file:
    (captured,) = guardian.hold().captured
    with core(captured, guardian, target.details, Choice(), target.owner) as found:
        copy(found, file, lambda _: None, lambda: None)
    guardian.release(captured.pid)
    file.commit()
"""


@needs_gcc
@pytest.mark.parametrize("version", TRIED)
def test_a_process_is_taken_with_each_python(tmp_path: Path, version: str) -> None:
    modules = [found.name for found in pkgutil.iter_modules(memdump.process.__path__)]
    with begun([str(built("pattern")), "4"]) as target:
        start, size = (int(word, 16) for word in target.line().split())
        words = [TRIED[version], "-I", "-c", f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n{TAKE}"]
        subprocess.run([*words, str(target.pid), tmp_path / "core", *modules], check=True, timeout=60)
        assert is_whole(Core(tmp_path / "core").read(start, size))
