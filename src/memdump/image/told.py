"""What the manifest of an acquisition tells of an image whose format does not say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.errors import MemdumpError
from memdump.machine import manifest

if TYPE_CHECKING:
    from memdump.image.base import Image
    from memdump.machine.manifest import Manifest


def by(image: Image) -> Manifest | None:
    """Give the manifest inside an image, else the one beside it; None where neither can be read."""
    try:
        if image.metadata:
            return manifest.parse(image.metadata)
        return manifest.load(manifest.path_of(str(image.path)))
    except MemdumpError:
        return None


def architecture(image: Image) -> str | None:
    """Give the machine as ``uname -m`` names it; None where nothing tells."""
    if image.architecture:
        return image.architecture
    known = by(image)
    return known.host.machine if known else None


def vmcoreinfo(image: Image) -> bytes | None:
    """Give the VMCOREINFO text; None where there is none."""
    if image.vmcoreinfo:
        return image.vmcoreinfo
    known = by(image)
    return known.vmcoreinfo.encode() if known and known.vmcoreinfo else None
