"""Bytes of the kernel's memory as text."""

from __future__ import annotations


def decode(data: bytes) -> str:
    """``data`` as UTF-8; bytes that are not become lone surrogates, so that `str.encode` gives them back.

    Nothing is made safe here: what shows the text does that.
    """
    return data.decode("utf-8", "surrogateescape")


def decode_name(field: bytes) -> str:
    """The string in a fixed-size ``char`` array: up to its first NUL, or all of it."""
    return decode(field.partition(b"\0")[0])
