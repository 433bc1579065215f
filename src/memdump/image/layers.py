"""What an image is wrapped in, taken off from the outside: a file in pieces, age, zstd."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from memdump.errors import NotADump, NotPermitted
from memdump.image.age_armour import is_age, is_armoured, remove_armour
from memdump.image.content import open_content
from memdump.image.joined import open_joined, whole_of
from memdump.image.zstd_layout import is_zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memdump.image.age_keys import Identity
    from memdump.image.content import Content

IDENTITY = "--identity FILE, or MEMDUMP_IDENTITY=FILE"
"""How the command line is given a private key."""
Key: TypeAlias = "str | os.PathLike[str] | Sequence[Identity] | None"
"""What opens an encrypted image: a file of identities, or identities."""
Ask: TypeAlias = "Callable[[str], str]"
"""Asks for a passphrase with the words that it is given."""


class Layer(NamedTuple):
    """What a file is wrapped in."""

    name: str
    """``split``, ``age`` or ``zstd``."""
    detail: str
    """What else is known of it, in words."""


class Opened(NamedTuple):
    """A file without its layers."""

    path: Path
    """What messages call the whole."""
    content: Content
    layers: tuple[Layer, ...]
    """The layers, from the outside."""
    metadata: bytes
    """What `memdump acquire` put into the zstd layer: the manifest, or nothing."""
    size: int
    """Bytes on the disk."""
    defects: list[str]


def open_layers(path: Path, identity: Key, ask: Ask | None) -> Opened:
    """Open a file as deep as it goes; `memdump.image.open_image` has the arguments.

    Raises `NotADump` where that cannot be, `NotPermitted` where it is encrypted and cannot be decrypted.
    """
    path, pieces = whole_of(path)
    content: Content = open_joined(path, pieces) if pieces else open_content(path)
    size = len(content)
    layers = [Layer("split", f"{len(pieces)} files")] if pieces else []
    defects: list[str] = []
    metadata = b""
    try:
        if is_age(content):
            layers.append(Layer("age", _recipients(path, content)))
            content = _decrypted(path, content, identity, ask, defects)
        if is_zstd(content[:4]):
            from memdump.image.zstd_content import open_zstd

            unpacked = open_zstd(path, content, defects)
            content, metadata = unpacked.content, unpacked.metadata
            layers.append(Layer("zstd", unpacked.detail))
    except BaseException:
        content.close()
        raise
    return Opened(path, content, tuple(layers), metadata, size, defects)


def _recipients(path: Path, content: Content) -> str:
    """Say what kinds of recipients may decrypt it; of those of age itself nobody can tell who they are."""
    from memdump.image.age_header import decode_header

    try:
        header = decode_header(remove_armour(content) if is_armoured(content) else content)
    except NotADump as error:
        raise NotADump(f"{path}: {error}") from None
    kinds = Counter(stanza.kind for stanza in header.stanzas)
    return ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in kinds.items())


def _decrypted(path: Path, content: Content, identity: Key, ask: Ask | None, defects: list[str]) -> Content:
    from memdump.image.age_content import AgeContent, wants_passphrase
    from memdump.machine.secret import hold_key

    hold_key()
    identities = _identities(path, content, identity, ask)
    try:
        decrypted = AgeContent(content, identities, name=path, partial=path.suffix == ".part")
    except NotPermitted as error:
        if identities:
            raise
        way = "on a terminal memdump asks for it" if wants_passphrase(content) else IDENTITY
        raise NotPermitted(f"{error} ({way})") from None
    defects += decrypted.defects
    return decrypted


def _identities(path: Path, content: Content, identity: Key, ask: Ask | None) -> Sequence[Identity]:
    from memdump.image.age_content import wants_passphrase

    if identity is not None and not isinstance(identity, (str, os.PathLike)):
        return identity
    if wants_passphrase(content):
        from memdump.image.age_keys import Passphrase

        return [Passphrase(ask(f"Passphrase of {path}: "))] if ask else []
    if identity is None:
        return []
    from memdump.image.age_files import load_identities

    return load_identities(Path(identity), ask)
