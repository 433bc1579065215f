"""What keys in memory are exposed to, which a command says once."""

from __future__ import annotations

import sys


def say() -> None:
    """Say on standard error what the system did not let us do for them, if any are in memory."""
    secret = sys.modules.get("memdump.machine.secret")  # without it there are none
    if secret is None or not secret.exposed:
        return
    print(f"memdump: a key or passphrase is in memory: {'; '.join(secret.exposed)}", file=sys.stderr)
    secret.exposed.clear()
