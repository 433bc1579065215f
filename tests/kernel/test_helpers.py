from __future__ import annotations

import subprocess
import sys

import drgn.helpers.linux


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def test_opening_a_kernel_imports_few_of_drgns_helpers() -> None:
    count = "sum(name.startswith('drgn.helpers.linux.') for name in sys.modules)"
    assert int(run(f"import sys, memdump.kernel.kernel; print({count})")) < 15


def test_all_of_drgns_helpers_are_there_when_asked_for() -> None:
    first = "import memdump.kernel, drgn; from drgn.helpers.linux import *; "
    assert run(first + "print(for_each_task.__module__)") == "drgn.helpers.linux.pid"
    whole = "import memdump.kernel, drgn.helpers.linux as linux; print(len(linux.__all__))"
    assert int(run(whole)) == len(drgn.helpers.linux.__all__)
    assert (
        run("import memdump.kernel; from drgn.helpers.linux import d_path; print(d_path.__name__)")
        == "d_path"
    )
