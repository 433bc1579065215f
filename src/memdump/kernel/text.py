"""Bytes of the kernel's memory as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import drgn

LONGEST = 4096
"""No string that the kernel keeps for people is longer than a page."""
STEP = 64


def decode(data: bytes) -> str:
    """``data`` as UTF-8; bytes that are not become lone surrogates, so that `str.encode` gives them back.

    Nothing is made safe here: what shows the text does that.
    """
    return data.decode("utf-8", "surrogateescape")


def decode_name(field: bytes) -> str:
    """The string in a fixed-size ``char`` array: up to its first NUL, or all of it."""
    return decode(field.partition(b"\0")[0])


def string_at(program: drgn.Program, address: int, longest: int = LONGEST) -> bytes:
    """The string at an address of the kernel, up to its NUL; raises `drgn.FaultError`.

    Read in steps that end where a multiple of their size does, so as not to ask for what lies behind the
    string: it may be missing.  drgn's own would read byte by byte.
    """
    found = b""
    while len(found) < longest:
        here = address + len(found)
        part, end, _ = program.read(here, STEP - here % STEP).partition(b"\0")
        found += part
        if end:
            break
    return found[:longest]
