"""How a kernel is understood without symbols: everything comes out of the image itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.kernel import helpers

if TYPE_CHECKING:
    from memdump.image.base import Image
    from memdump.kernel.kernel import Kernel

__all__ = ["open_kernel"]

helpers.install()


def open_kernel(image: Image) -> Kernel:
    """Find and understand the kernel of an image.

    Raises `memdump.kernel.problems.NoKernel` where there is none that memdump can read.
    """
    from memdump.kernel.kernel import Kernel

    return Kernel.find(image)
