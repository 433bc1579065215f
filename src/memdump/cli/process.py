"""``memdump process``: the memory of one process, as a core that gdb opens."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING

from memdump.cli import _acquire_options, _exposed, _process, _sealing
from memdump.errors import UsageError
from memdump.machine import destination, secret, sshsig
from memdump.machine.interrupt import Interrupt
from memdump.process import members, selection
from memdump.process.capture import FORK, FREEZE, LIVE, PRECOPY
from memdump.process.guardian import Guardian
from memdump.process.members import Members
from memdump.process.selection import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdump.process.members import Belongs
    from memdump.process.target import Target

SUMMARY = "take the memory of a process, which hardly stops for it, as an ELF core"
EXAMPLE = "memdump process 4711 /mnt/usb/server.core.zst.age --recipient ~/.ssh/id_ed25519.pub"
_BITS = 1 << 9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "words",
        metavar="PID [PID ...] [OUT]",
        nargs="*",
        help="the processes, and the core to write: server.core, server.core.zst (compressed),"
        " server.core.zst.age (encrypted too); a folder for NAME-PID-TIME.core (default: here); - for"
        " standard output; tcp:HOST:PORT for 'memdump receive'; https://... (PUT); s3://, gs:// or az://BUCKET/KEY",
    )
    _which(parser.add_argument_group("which processes"))
    _what(parser.add_argument_group("what is taken"))
    sealed = parser.add_argument_group("how it is sealed")
    _acquire_options.sealed(sealed)
    sealed.add_argument(
        "--digest",
        action="store_true",
        help="take the SHA-256 of a core that is not sealed, signed or sent, too (those always have it)",
    )
    _acquire_options.where(parser.add_argument_group("where it goes"))


def _which(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--all", metavar="NAME", help="all processes of this name, at one instant")
    group.add_argument(
        "--container", metavar="ID", help="all processes of the container (cgroup) with this id or name"
    )


def _what(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--mode",
        choices=(PRECOPY, FORK, FREEZE, LIVE),
        help="fork: a copy is made, which takes milliseconds, and the process runs on (default, where it is"
        " safe); precopy: it is copied while it runs, and stands still only for what it has written to"
        " meanwhile (to a plain file, from Linux 6.12 on); freeze: it stands still until it is read; live: it"
        " stands still for its registers only",
    )
    group.add_argument(
        "--skip",
        choices=selection.KINDS,
        action="append",
        default=[],
        help="leave out: what stands in files too, shared memory, or huge pages; may be given several times",
    )
    group.add_argument("--no-shared", action="store_true", help="the same as --skip shared")
    group.add_argument(
        "--shared-once",
        action="store_true",
        help="of several processes, put memory that they share into the first one's core only",
    )
    group.add_argument(
        "--coredump-filter",
        metavar="BITS",
        type=_bits,
        help="take what the kernel would, by these bits (0x33; see core(5)), or by the process's own: 'own'",
    )


def run(args: argparse.Namespace) -> int:
    """Take the processes; 0 where their cores hold all that was asked for, 1 where part of it is missing."""
    if args.sign:
        sshsig.check(args.sign)
    pids, out = processes_and_place(args)
    sealing = _sealing.choose(args, "" if out == "-" else destination.shown(out))
    if sealing.recipients:  # else whoever may read our memory may read the core, too
        secret.hold_key()
        _exposed.say()
    together = Members(pids, _groups(args), args.mode, lambda one: _choice(args, one))
    targets = together.survey()

    def plan(targets: Sequence[Target]) -> list[_process.Job]:
        return [
            _process.Job(one, _choice(args, one), _process.layout(args, out, one, sealing)) for one in targets
        ]

    _process.check_place(args, out, len(targets))
    jobs = _process.decide(args, plan(targets), grouped=bool(args.all or args.container))
    _process.announce(jobs, sealing)
    wanted = [one.target.wanted(one.choice) for one in jobs]
    with (
        Interrupt() as interrupt,
        Guardian(wanted, together, lambda: interrupt.received) as guardian,
        contextlib.ExitStack() as stack,
    ):
        begun = _process.begin(guardian, jobs, interrupt, stack)
        held = guardian.hold()
        if held.joined:
            _process.check_place(args, out, len(held.captured))
            jobs += plan(held.joined)
        status = _process.tell_of_set(held, together.gone, pids)
        return max(status, _process.take_all(args, guardian, jobs, held, together.gone, interrupt, begun))


def processes_and_place(args: argparse.Namespace) -> tuple[list[int], str]:
    """Tell processes that are named from the place of the core."""
    words = list(args.words)
    pids = []
    while words and words[0].isascii() and words[0].isdigit():
        pids.append(int(words.pop(0)))
    if len(words) > 1:
        raise UsageError(f"{words[0]!r} is no process id; a single OUT comes behind the processes")
    if not pids and not args.all and not args.container:
        what = f"{words[0]!r} is no process id; " if words else ""
        raise UsageError(f"{what}which process? Give its PID, --all NAME or --container ID")
    return pids, words[0] if words else "."


def _groups(args: argparse.Namespace) -> list[Belongs]:
    groups = [members.by_name(args.all)] if args.all else []
    return groups + ([members.by_container(args.container)] if args.container else [])


def _choice(args: argparse.Namespace, found: Target) -> Choice:
    skip = frozenset(args.skip) | frozenset(["shared"] * args.no_shared)
    bits = args.coredump_filter
    return Choice(skip, found.own_filter if bits == _OWN else bits)


_OWN = -1


def _bits(text: str) -> int:
    if text == "own":
        return _OWN
    try:
        bits = int(text, 0)
    except ValueError:
        bits = _BITS
    if not 0 <= bits < _BITS:
        raise argparse.ArgumentTypeError(f"{text!r}: write the bits of coredump_filter, as 0x33, or 'own'")
    return bits
