"""``memdump acquire``: the whole machine's memory."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from memdump.cli import _acquire_options, _acquisition, _exposed, _sealing
from memdump.errors import UsageError
from memdump.machine import destination, frugal, priority, secret, sources, sshsig
from memdump.machine.interrupt import Interrupt
from memdump.report.text import visible

if TYPE_CHECKING:
    import argparse

    from memdump.machine.sources import Chosen

SUMMARY = "take the memory of this machine, or of another one, as a LiME image"
EXAMPLE = "sudo memdump acquire /mnt/usb/web1.lime.zst.age --recipient ~/.ssh/id_ed25519.pub"

add_arguments = _acquire_options.add_arguments


def run(args: argparse.Namespace) -> int:
    """Acquire; 0 where the image holds all memory, 1 where part of it is missing."""
    frugal.lower()
    if args.priority == "idle":
        priority.lower()
    if args.sign:
        sshsig.check(args.sign)
    name = "" if args.out == "-" else destination.shown(args.out)
    sealing = _sealing.choose(args, name, ask=False)
    if sealing.recipients:
        secret.hold_key()
        _exposed.say()
    else:
        secret.protect_process()
    chosen = sources.open_source(args.source, _source_options(args))
    with contextlib.closing(chosen.source) as source:
        if not args.dry_run:
            sealing = _sealing.asked(args, sealing)
        plan = _acquisition.plan(args, source, sealing)
        if args.dry_run:
            from memdump.cli import _dry_run

            return _dry_run.show(args, chosen, plan)
        _say_source(chosen)
        _sealing.warn(sealing, plan.name)
        _acquisition.check_room(plan, source, skip_free=bool(args.skip))
        with Interrupt() as interrupt, destination.open_destination(plan.out, plan.options) as target:
            return _acquisition.take(args, chosen, plan, target, interrupt)


def _source_options(args: argparse.Namespace) -> sources.Options:
    kind, colon, _ = args.source.partition(":")
    for option, given, wanted in (
        ("--live", args.live, "qemu"),
        ("--sudo", args.sudo, "ssh"),
        ("--ssh-option", args.ssh_option, "ssh"),
    ):
        if given and not (colon and kind == wanted):
            raise UsageError(f"{option} is for --source {wanted}:... only")
    return sources.Options(live=args.live, sudo=args.sudo, ssh_options=tuple(args.ssh_option))


def _say_source(chosen: Chosen) -> None:
    for name, reason in chosen.refused:
        print(f"memdump: not through {name}: {visible(reason)}", file=sys.stderr)
    evidence = f" ({visible(chosen.source.evidence)})" if chosen.source.evidence else ""
    print(f"memdump: reading through {visible(chosen.source.name)}{evidence}", file=sys.stderr)
    if chosen.source.pauses_machine:
        print(
            "memdump: the guest stands still until its memory is written or sent (--live: not at all)",
            file=sys.stderr,
        )
