"""A Python that this machine does not have: that of an older Debian, fetched as the kernels are.

A fresh Debian has one version, and what acquires is to run with many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.lab import cache, kernels

if TYPE_CHECKING:
    from pathlib import Path

NAME, SUITE, PACKAGES = "python3.9", "bullseye", ["python3.9-minimal", "libpython3.9-stdlib"]
"""The oldest to be had that is new enough: the Debian before has 3.7, and none has 3.8."""
# It is run by the C library that came with it: a newer one may not have what it needs.
RUN = """\
#!/bin/sh
root={root}
own=$root/lib/x86_64-linux-gnu
exec "$own"/ld-*.so --library-path "$own:$root/usr/lib/x86_64-linux-gnu" "$root/usr/bin/{name}" "$@"
"""


def path() -> Path:
    """Where it stands when it was fetched."""
    return cache.folder() / "packages" / f"{NAME}.sh"


def get() -> Path:
    """It, from the cache or else from the archive; raises `cache.NoLab`."""
    root = kernels.get_packages(NAME, PACKAGES, SUITE)
    if not path().exists():
        made = path().with_suffix(".part")
        made.write_text(RUN.format(root=root, name=NAME))
        made.chmod(0o755)
        made.rename(path())
    return path()
