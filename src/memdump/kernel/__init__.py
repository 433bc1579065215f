"""How a kernel is understood without symbols."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import drgn

    from memdump.image.base import Image
    from memdump.kernel.problems import Problems


class Kernel:
    """A kernel inside an image."""

    image: Image
    program: drgn.Program
    release: str
    architecture: str
    problems: Problems


def open_kernel(image: Image) -> Kernel:
    """Find and understand the kernel of an image."""
    raise NotImplementedError
