"""The sources of physical memory by their names, and which of them serves on this machine."""

import contextlib
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

from memdump.errors import MemdumpError, NotPermitted, UsageError
from memdump.machine.source import Source


class Options(NamedTuple):
    """What else sources of other machines can be told."""

    live: bool = False
    """Let a guest run on while its memory is read."""
    sudo: bool = False
    """Become root on the other machine, whoever we are there."""
    ssh_options: Sequence[str] = ()


class Chosen(NamedTuple):
    """An open source, and those that were tried before it."""

    source: Source
    refused: List[Tuple[str, str]]
    """Name and reason of each."""


# What is not used is not imported: it would only take of the memory that is to be had.


def _kcore() -> Source:
    from memdump.machine.kcore import KcoreSource

    return KcoreSource()


def _crash() -> Source:
    from memdump.machine.crashdev import CrashSource

    return CrashSource()


def _devmem() -> Source:
    from memdump.machine.devmem import DevmemSource

    return DevmemSource()


def _ebpf() -> Source:
    from memdump.machine.ebpf import EbpfSource

    return EbpfSource()


def _qemu(path: str, options: Options) -> Chosen:
    from memdump.machine.qemu import QemuSource

    return Chosen(QemuSource(path, live=options.live), [])


def _ssh(host: str, options: Options) -> Chosen:
    from memdump.machine.ssh import SshSource

    source = SshSource(host, sudo=options.sudo or None, options=options.ssh_options)
    return Chosen(source, source.refused)


_HERE: Dict[str, Callable[[], Source]] = {"kcore": _kcore, "crash": _crash, "devmem": _devmem, "ebpf": _ebpf}
"""This machine's own, in the order in which they are tried: the one that does least to the machine first.

With kcore the kernel itself says where its memory is and keeps away from pages that must not be touched.
crash and devmem are files too, opened and read and nothing else.  ebpf brings programs into the kernel, which
takes a little memory and may be logged, and has to find out where the kernel maps the memory.
"""

_ELSEWHERE: Dict[str, Callable[[str, Options], Chosen]] = {"qemu": _qemu, "ssh": _ssh}
_ARGUMENTS = {"qemu": "SOCKET", "ssh": "[USER@]HOST"}

NAMES = tuple(_HERE)


def open_source(name: str = "auto", options: Options = Options()) -> Chosen:  # noqa: B008
    """Open a source by its name; ``auto`` is the first of this machine's own that works.

    Raises `UsageError` where there is none of that name, and what the source itself raises, mostly
    `NotPermitted`; for ``auto`` one with the reasons of all of them.
    """
    if name == "auto":
        return _first()
    if name in _HERE:
        return Chosen(_HERE[name](), [])
    kind, _, argument = name.partition(":")
    if kind in _ELSEWHERE and argument:
        return _ELSEWHERE[kind](argument, options)
    known = [*NAMES, *(f"{kind}:{what}" for kind, what in _ARGUMENTS.items())]
    raise UsageError(f"there is no source {name!r}; choose auto, or one of {', '.join(known)}")


def _first() -> Chosen:
    refused: List[Tuple[str, str]] = []
    for name, open_ in _HERE.items():
        try:
            return Chosen(open_(), refused)
        except MemdumpError as error:
            refused.append((name, str(error)))
    names: Dict[str, List[str]] = {}
    for name, reason in refused:
        names.setdefault(reason, []).append(name)
    reasons = "; ".join(f"{', '.join(those)}: {reason}" for reason, those in names.items())
    raise NotPermitted(f"this machine's memory cannot be had through any source: {reasons}")


def survey(but: str = "") -> List[Tuple[str, str]]:
    """Try this machine's own sources, all ``but`` one, and say of each that it works or why not."""
    found = []
    for name, open_ in _HERE.items():
        if name != but:
            try:
                with contextlib.closing(open_()):
                    found.append((name, "works here"))
            except MemdumpError as error:
                found.append((name, str(error)))
    return found
