"""What an image is wrapped in, taken off from the outside: age, zstd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from memdump.image.content import open_content
from memdump.image.zstd_layout import is_zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memdump.image.age_keys import Identity
    from memdump.image.content import Content

AGE = (b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")
"""What an age file begins with, as it is and in ASCII armour."""


Key: TypeAlias = "str | os.PathLike[str] | Sequence[Identity] | None"
"""What opens an encrypted image: a file of identities, or identities."""
Ask: TypeAlias = "Callable[[str], str]"
"""Asks for a passphrase with the words that it is given."""


class Opened(NamedTuple):
    """A file without its layers."""

    content: Content
    layers: tuple[str, ...]
    """The layers, from the outside."""
    metadata: bytes
    """What `memdump acquire` put into the zstd layer: the manifest, or nothing."""
    size: int
    """Bytes of the file, as it is on the disk."""
    defects: list[str]


def open_layers(path: Path, identity: Key, ask: Ask | None) -> Opened:
    """Open a file as deep as it goes; `memdump.image.open_image` has the arguments.

    Raises `NotADump` where that cannot be, `NotPermitted` where it is encrypted and cannot be decrypted.
    """
    content: Content = open_content(path)
    size = len(content)
    layers: list[str] = []
    defects: list[str] = []
    metadata = b""
    try:
        if content[:64].startswith(AGE):
            content = _decrypted(path, content, identity, ask, defects)
            layers.append("age")
        if is_zstd(content[:4]):
            from memdump.image.zstd_content import open_zstd

            content, metadata = open_zstd(path, content, defects)
            layers.append("zstd")
    except BaseException:
        content.close()
        raise
    return Opened(content, tuple(layers), metadata, size, defects)


def _decrypted(path: Path, content: Content, identity: Key, ask: Ask | None, defects: list[str]) -> Content:
    from memdump.image.age import AgeContent
    from memdump.image.secret import protect_process

    protect_process()
    identities = _identities(path, content, identity, ask)
    decrypted = AgeContent(content, identities, name=path, partial=path.suffix == ".part")
    defects += decrypted.defects
    return decrypted


def _identities(path: Path, content: Content, identity: Key, ask: Ask | None) -> Sequence[Identity]:
    from memdump.image.age import wants_passphrase

    if identity is not None and not isinstance(identity, (str, os.PathLike)):
        return identity
    if wants_passphrase(content):
        from memdump.image.age_keys import Passphrase

        return [Passphrase(ask(f"passphrase of {path}: "))] if ask else []
    if identity is None:
        return []
    from memdump.image.age_files import load_identities

    return load_identities(Path(identity), ask)
