"""What ``memdump acquire`` can be told."""

from __future__ import annotations

import argparse
import re

from memdump.cli import _sealing

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size(text: str) -> int:
    """Read a number of bytes such as ``650M``, ``4GiB`` or ``100MB/s``; the units are powers of 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?(?:/s)?", text.strip().lower())
    if not found or float(found[1]) * _UNITS[found[2]] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 650M, 4G or a number of bytes")
    return int(float(found[1]) * _UNITS[found[2]])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "out",
        metavar="OUT",
        nargs="?",
        default=".",
        help="the image to write: web1.lime, web1.lime.zst (compressed), web1.lime.zst.age (encrypted too);"
        " a folder for HOST-TIME.lime (default: here); - for standard output; tcp:HOST:PORT for 'memdump"
        " receive'; https://... (PUT); s3://, gs:// or az://BUCKET/KEY",
    )
    _what(parser.add_argument_group("what is taken"))
    sealed(parser.add_argument_group("how it is sealed"))
    _cost(parser.add_argument_group("what it costs the machine"))
    place = parser.add_argument_group("where it goes")
    where(place)
    place.add_argument(
        "--spool",
        metavar="FOLDER",
        help="write the image to this folder first, and send and remove it when it is whole: for servers that"
        " want to know its length beforehand, as object stores do (http:, https:)",
    )


def _what(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--source",
        metavar="SOURCE",
        default="auto",
        help="kcore, ebpf, devmem, crash; qemu:SOCKET, a guest of this machine through its QMP socket;"
        " ssh:[USER@]HOST, another machine; auto is the first of this machine's own that works (default)",
    )
    group.add_argument(
        "--order",
        choices=("kernel-first", "ascending"),
        help="kernel-first takes the kernel's own pages in one sweep before all others, so that its"
        " structures fit together (default, where the kernel tells which pages are its own); the image is in"
        " the order of addresses either way",
    )
    group.add_argument("--skip", choices=("free",), help="leave out pages that nobody uses")
    group.add_argument("--live", action="store_true", help="do not pause the guest (qemu:)")
    group.add_argument("--sudo", action="store_true", help="run as root there through sudo (ssh:)")
    group.add_argument(
        "--ssh-option", metavar="OPTION", action="append", default=[], help="for ssh, as in ssh -o (ssh:)"
    )


def sealed(group: argparse._ArgumentGroup) -> None:
    """Declare how what is written is sealed and signed."""
    _sealing.add_arguments(group)
    group.add_argument("--sign", metavar="KEY", help="sign the manifest with this SSH key (ssh-keygen -Y)")


def _cost(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dry-run", action="store_true", help="only say what would be done, and what it would cost"
    )
    group.add_argument(
        "--max-rate", metavar="SIZE", type=size, help="take no more than so many bytes of memory a second"
    )
    group.add_argument(
        "--priority",
        choices=("idle", "normal"),
        default="idle",
        help="idle: the processor and the disk when nobody else wants them (default)",
    )


def where(group: argparse._ArgumentGroup) -> None:
    """Declare how it gets where it goes."""
    group.add_argument(
        "--split", metavar="SIZE", type=size, default=0, help="into files OUT.000, OUT.001, ... of this size"
    )
    group.add_argument(
        "--manifest", metavar="FILE", help="the manifest to write (default: OUT.json; with - none)"
    )
    group.add_argument("--tls", action="store_true", help="encrypt the connection (tcp:)")
    group.add_argument("--tls-ca", metavar="FILE", help="the certificates to trust (tcp:, https:)")
    group.add_argument("--tls-cert", metavar="FILE", help="our own certificate (tcp:)")
    group.add_argument("--tls-key", metavar="FILE", help="its key (tcp:)")
