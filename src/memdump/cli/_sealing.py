"""How an image is to be sealed, for the commands that write one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdump.errors import UsageError
from memdump.seal import COMPRESSED, ENCRYPTED, Sealing, check_compression, not_installed

if TYPE_CHECKING:
    import argparse

_RECIPIENTS = "memdump/recipients"
_WORK_FACTOR = 16
"""Of scrypt: 64 MB for a quarter of a second. What age takes by itself is four times as much, for a server
that is at work too much."""


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Declare the options, which `choose` understands."""
    group.add_argument("--compress", action="store_true", help="with zstd, also where OUT does not say .zst")
    group.add_argument(
        "--recipient",
        metavar="KEY",
        action="append",
        default=[],
        help="encrypt with age to this public key (age1..., ssh-ed25519 ..., or a file of them); may be given"
        f" several times. Default: the keys in ~/.config/{_RECIPIENTS} or /etc/{_RECIPIENTS}, if there",
    )
    group.add_argument(
        "--passphrase", action="store_true", help="encrypt with a passphrase, which is asked for"
    )
    group.add_argument("--no-encrypt", action="store_true", help="do not encrypt to the default recipients")


def choose(args: argparse.Namespace, name: str, *, ask: bool = True) -> Sealing:
    """Decide by the options, by the suffixes of ``name``, and by the recipients that are configured.

    Without ``ask`` a passphrase is made up, which nobody learns: good for an estimate only.  Raises
    `UsageError` where they contradict each other.
    """
    wanted = name.endswith(ENCRYPTED)
    recipients = _recipients(args, ask=ask)
    if wanted and not recipients:
        raise UsageError(
            f"{name}: {ENCRYPTED} says encrypted, but to whom? Add --recipient KEY or --passphrase"
        )
    plain = wanted and not name.endswith(COMPRESSED + ENCRYPTED)
    compress = args.compress or COMPRESSED in Path(name).suffixes or (bool(recipients) and not plain)
    if compress:
        check_compression()
    return Sealing(compress, recipients)


def asked(args: argparse.Namespace, sealing: Sealing) -> Sealing:
    """Ask for the passphrase that `choose` made up; all else stays, since a pipe of keys is read once."""
    return Sealing(sealing.compress, (_passphrase(ask=True),)) if args.passphrase else sealing


def named(name: str, sealing: Sealing) -> str:
    """Give the name that tells what is inside: ``web1.lime`` becomes ``web1.lime.zst.age``."""
    for suffix in (ENCRYPTED, COMPRESSED):
        name = name[: -len(suffix)] if name.endswith(suffix) else name  # noqa: FURB188 (Python 3.8)
    return name + sealing.suffix


def warn(sealing: Sealing, what: str) -> None:
    """Say it where passwords and keys are going to lie about in the clear."""
    if not sealing.recipients:
        print(
            f"memdump: {what} is not encrypted: whoever can read it finds the passwords and keys of the"
            " machine in it; --recipient or --passphrase encrypts",
            file=sys.stderr,
        )


def _recipients(args: argparse.Namespace, *, ask: bool) -> tuple[Any, ...]:
    if args.passphrase and args.recipient:
        raise UsageError("--passphrase and --recipient exclude each other: age opens a file in one way only")
    if args.passphrase:
        return (_passphrase(ask=ask),)
    words = args.recipient or ([] if args.no_encrypt else _configured())
    if not words:
        return ()
    try:
        from memdump.image.age_files import parse_recipients
    except ImportError as error:
        raise not_installed(error) from None

    return tuple(parse_recipients(words))


def _configured() -> list[str]:
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
    for path in (home / _RECIPIENTS, Path("/etc") / _RECIPIENTS):
        if path.is_file():
            return [str(path)]
    return []


def _passphrase(*, ask: bool) -> Any:
    import getpass
    import secrets

    try:
        from memdump.image.age_keys import Passphrase
    except ImportError as error:
        raise not_installed(error) from None

    if not sys.stdin or not sys.stdin.isatty():
        raise UsageError("--passphrase asks on a terminal, and there is none: encrypt with --recipient KEY")
    if not ask:
        return Passphrase(secrets.token_hex(), _WORK_FACTOR)
    text = getpass.getpass("Passphrase: ")
    if not text:
        raise UsageError("the passphrase is empty")
    if getpass.getpass("The same again: ") != text:
        raise UsageError("the two passphrases differ; nothing was done")
    return Passphrase(text, _WORK_FACTOR)
