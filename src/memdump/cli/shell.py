"""``memdump shell``: a drgn prompt on an image."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from memdump import __version__
from memdump.cli import _image
from memdump.report.text import visible

if TYPE_CHECKING:
    import argparse

    from memdump.kernel.kernel import Kernel

SUMMARY = "open a drgn prompt on an image, with kernel and prog defined"
EXAMPLE = "memdump shell server.lime"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    _image.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Open the prompt."""
    from drgn.cli import run_interactive

    with _image.open_dump(args) as dump:
        kernel = dump.kernel

        def names(variables: dict[str, Any]) -> dict[str, Any]:
            return {**variables, "kernel": kernel, "dump": dump}

        run_interactive(kernel.program, banner_func=lambda _: _banner(kernel), globals_func=names)
    return 0


def _banner(kernel: Kernel) -> str:
    python = sys.version.partition(" ")[0]
    return "\n".join(
        (
            f"memdump {__version__} on Python {python}",
            f"Linux {visible(kernel.release)} ({kernel.architecture})",
            "prog is the image as a drgn program, kernel what was made out in it, dump its tables:",
            ">>> for task in for_each_task(prog): print(task.comm.string_())",
            '>>> list(dump.table("processes"))',
            '>>> list(dump.query("select name, count(*) from processes group by name"))',
        )
    )
