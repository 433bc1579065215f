"""Beside Volatility 3, on one image: ``python -m bench.volatility IMAGE``.

Volatility gets the symbol file that ``memdump export isf`` makes, uncompressed, which it loads quickest, and
a cache that is warm.  Both are run as whole processes, as one would.  The image must be of a guest with
4-level page tables.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench.processes import Taken, run, script, verdict

PLUGINS = {
    "processes": ("linux.pslist.PsList", "linux.pstree.PsTree", "linux.psaux.PsAux"),
    "system": ("linux.boottime.Boottime",),
    "environment": ("linux.envars.Envars",),
    "open_files": ("linux.lsof.Lsof",),
    "memory_maps": ("linux.proc.Maps",),
    "sockets": ("linux.sockstat.Sockstat",),
    "interfaces": ("linux.ip.Addr", "linux.ip.Link"),
    "modules": ("linux.lsmod.Lsmod",),
    "mounts": ("linux.mountinfo.MountInfo",),
    "kernel_log": ("linux.kmsg.Kmsg",),
    "shell_history": ("linux.bash.Bash",),
    "recent_files": ("linux.pagecache.Files",),
    "capabilities": ("linux.capabilities.Capabilities",),
}
"""The tables, and the plugins that say the same."""
UNMATCHED = ("threads", "neighbours", "namespaces", "users")
"""Tables that Volatility has no plugin for; memdump's time for all tables includes them."""
HEADING = 2
"""Lines that a plugin prints before its rows: its own name and the columns."""


class Volatility:
    """Volatility 3 with the symbols of one image ready."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image, self._symbols, self._cache = image, folder / "symbols", folder / "cache"
        self._shadow = folder / "shadow"
        for each in (self._symbols, self._cache, self._shadow):
            each.mkdir()
        # At the first sight of a symbol file Volatility spends minutes on comparing it with its schema, but
        # not where jsonschema is not installed.  Later runs take the same either way.
        (self._shadow / "jsonschema.py").write_text("raise ImportError('left out')")
        made = run([script("memdump"), "export", "isf", image, self._symbols / "kernel.json"])
        if made.status:
            sys.exit(f"no symbols for Volatility: {made.errors.strip()}")
        self.export = made

    def run(self, plugin: str) -> Taken:
        """Run a plugin."""
        command: list[str | Path] = [script("vol"), "-q", "-f", self._image, "-s", self._symbols, plugin]
        return run(command, self._cache, PYTHONPATH=str(self._shadow))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.volatility", description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memdump-bench-") as folder:
        volatility = Volatility(args.image, Path(folder))
        print(f"memdump export isf: {volatility.export.seconds:.1f} s")
        warming = volatility.run("linux.pslist.PsList")
        print(f"linux.pslist, first run, cache cold: {warming.seconds:.1f} s")
        processes(args.image, volatility, args.rounds)
        all_tables(args.image, volatility)


def processes(image: Path, volatility: Volatility, rounds: int) -> None:
    """The list of processes: one command against one plugin."""
    ours, theirs = [], []
    for _ in range(rounds + 1):
        ours.append(run([script("memdump"), "show", image, "processes"]))
        theirs.append(volatility.run("linux.pslist.PsList"))
    # The first round warmed memdump's cache as well.
    mine, other = (min(taken[1:], key=lambda one: one.seconds) for taken in (ours, theirs))
    _say("memdump show processes", mine, mine.rows - 1)
    _say("vol linux.pslist", other, other.rows - HEADING)
    print(verdict("show processes, beside linux.pslist", other.seconds / mine.seconds, 10))
    less_processor = min(one.processor for one in theirs) / min(one.processor for one in ours[1:])
    print(verdict("the same in processor time", less_processor, 10))


def all_tables(image: Path, volatility: Volatility) -> None:
    """Every table in one command against every matching plugin, one after another."""
    counts = ", ".join(f"(select count(*) from {table}) as {table}" for table in (*PLUGINS, *UNMATCHED))
    query: list[str | Path] = [script("memdump"), "query", image, f"select {counts}", "--format", "json"]
    together = min((run(query) for _ in range(5)), key=lambda taken: taken.seconds)
    _say("memdump query over all tables", together, together.rows)
    print(together.output.strip())
    apart = sum(_show(image, table).seconds for table in (*PLUGINS, *UNMATCHED))
    theirs, processor = 0.0, 0.0
    for plugin in (plugin for plugins in PLUGINS.values() for plugin in plugins):
        taken = volatility.run(plugin)
        _say(f"vol {plugin}", taken, taken.rows - HEADING)
        if not taken.status:
            theirs += taken.seconds
            processor += taken.processor
    print(verdict("all tables, beside the matching plugins", theirs / together.seconds, 50))
    print(verdict("the same in processor time", processor / together.processor, 50))
    print(f"(with a process for each of the tables: {theirs / apart:.1f} x)")


def _show(image: Path, table: str) -> Taken:
    taken = run([script("memdump"), "show", image, table])
    _say(f"memdump show {table}", taken, taken.rows - 1)
    return taken


def _say(what: str, taken: Taken, rows: int) -> None:
    failed = "" if taken.status in (0, 1) else f"  FAILED: {taken.errors.strip().splitlines()[-1:]}"
    print(f"{what:<45} {taken.seconds:7.2f} s {taken.processor:7.2f} s CPU {rows:6} rows{failed}", flush=True)


if __name__ == "__main__":
    main()
