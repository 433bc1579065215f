"""How any dump is read: each format is a file, recognised by content."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memdump.image.base import Image
    from memdump.image.layers import Ask, Key


def open_image(path: str | os.PathLike[str], identity: Key = None, ask: Ask | None = None) -> Image:
    """Open a dump of any known format, compressed with zstd or not, encrypted with age or not.

    ``identity`` opens an encrypted one: a file of identities, or identities of `memdump.image.age_keys`.
    ``ask`` is called, with the words to show, where a passphrase is needed.  Raises
    `memdump.errors.NotADump` where the file is none, `memdump.errors.NotPermitted` where it may not be read
    or cannot be decrypted.

    A file that is truncated or damaged is opened with what it has; `Image.defects` says what is wrong with
    it.
    """
    from pathlib import Path

    from memdump.errors import NotADump
    from memdump.image.content import Damaged
    from memdump.image.layers import open_layers
    from memdump.image.recognise import recognise

    opened = open_layers(Path(path), identity, ask)
    try:
        image = recognise(opened.path, opened.content)
    except Damaged as error:
        opened.content.close()
        raise NotADump(f"{opened.path}: cannot be read, since {error}; take it again") from None
    except BaseException:
        opened.content.close()
        raise
    image.layers, image.metadata, image.file_size = opened.layers, opened.metadata, opened.size
    image.defects[:0] = opened.defects
    if any(layer.name == "age" for layer in opened.layers) and isinstance(identity, (str, os.PathLike)):
        image.identity = os.fspath(identity)
    return image
